#include "vmm/core/metrics.hpp"

#include <fcntl.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>

#include "base/json.hpp"
#include "vmm/core/logger.hpp"

namespace wherry::vmm {

ApiMetrics::ApiMetrics() {
    // All of them now: later the maps are only read, from more than one thread.
    for (const char* name : {"instance_info", "machine_cfg", "mmds", "vmm_version", "balloon", "hotplug_memory"})
        requests["get_api_requests"][name];
    for (const char* name :
         {"actions", "boot_source", "drive", "logger", "machine_cfg", "cpu_cfg", "metrics", "network", "mmds", "vsock",
          "balloon", "entropy", "serial", "pmem", "hotplug_memory", "fs"})
        requests["put_api_requests"][name];
    for (const char* name : {"balloon", "drive", "network", "machine_cfg", "mmds", "vm", "pmem", "hotplug_memory"})
        requests["patch_api_requests"][name];
    for (const char* name : {"drive", "network", "pmem"}) requests["delete_api_requests"][name];
}

void ApiMetrics::count(std::string_view section, std::string_view name, bool is_failure) {
    const auto in = requests.find(section);
    if (in == requests.end()) return;
    const auto found = in->second.find(name);
    if (found == in->second.end()) return;
    (is_failure ? found->second.fails : found->second.count).add();
}

Result<> MetricsWriter::open(const std::string& path) {
    if (file_) return fail(Code::conflict, "Reinitialization of metrics not allowed.");
    file_ = TRY(open_file(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK, 0644));
    return {};
}

Result<> MetricsWriter::write(std::string_view line) {
    if (!file_) return fail(Code::conflict, "The metrics are not configured.");
    if (::write(file_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
        logger_metrics().missed_metrics_count.add();
        return fail_errno("writing metrics");
    }
    return {};
}

SignalMetrics& signal_metrics() {
    static SignalMetrics metrics;
    return metrics;
}

void add_counter(NamedCounters& to, const char* name, Counter* counter) {
    to.push_back({name, counter});
}

MetricsLine::MetricsLine() : text_(R"({"utc_timestamp_ms":)") {}

void MetricsLine::begin(std::string_view section) {
    // Ids of devices are among the names.
    text_ += (values_.empty() ? "," : "},") + to_json(json::value(section)) + ":{";
}

void MetricsLine::name(std::string_view name) {
    if (text_.back() != '{') text_ += ',';
    text_.append(1, '"').append(name).append("\":");
}

void MetricsLine::add(std::string_view name_of, Counter* counter) {
    name(name_of);
    values_.push_back({text_.size(), summands_.size(), counter != nullptr ? 1U : 0U, nullptr});
    if (counter == nullptr) return;
    summands_.push_back(counters_.size());
    counters_.push_back(counter);
}

void MetricsLine::add(std::string_view name_of, const Gauge& gauge) {
    name(name_of);
    values_.push_back({text_.size(), 0, 0, &gauge});
}

void MetricsLine::add_sum(std::string_view name_of, std::span<Counter* const> counters) {
    name(name_of);
    values_.push_back({text_.size(), summands_.size(), counters.size(), nullptr});
    for (Counter* counter : counters)
        summands_.push_back(static_cast<std::size_t>(std::ranges::find(counters_, counter) - counters_.begin()));
}

void MetricsLine::add_section(std::string_view section, const NamedCounters& counters) {
    begin(section);
    for (const NamedCounter& one : counters) add(one.name, one.counter);
}

void MetricsLine::finish() {
    text_ += "}}\n";
    constexpr std::size_t longest_number = 20;
    counted_.resize(counters_.size());
    out_.resize(text_.size() + (values_.size() + 1) * longest_number);
}

std::string_view MetricsLine::take() {
    for (std::size_t i = 0; i < counters_.size(); ++i) counted_[i] = counters_[i]->take();
    return format();
}

std::string_view MetricsLine::peek() {
    for (std::size_t i = 0; i < counters_.size(); ++i) counted_[i] = counters_[i]->since();
    return format();
}

// Async-signal-safe.
std::string_view MetricsLine::format() {
    char* to = out_.data();
    char* const end = out_.data() + out_.size();
    std::size_t at = 0;
    const auto copy_until = [&](std::size_t text_end) {
        to = std::copy(text_.begin() + static_cast<std::ptrdiff_t>(at),
                       text_.begin() + static_cast<std::ptrdiff_t>(text_end), to);
        at = text_end;
    };
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    copy_until(text_.find(',') == std::string::npos ? text_.size() : text_.find(','));
    to = std::to_chars(to, end, now.tv_sec * 1000 + now.tv_nsec / 1'000'000).ptr;
    for (const Value& value : values_) {
        copy_until(value.text_end);
        std::uint64_t sum = value.gauge != nullptr ? value.gauge->get() : 0;
        for (std::size_t i = 0; i < value.count; ++i) sum += counted_[summands_[value.first + i]];
        to = std::to_chars(to, end, sum).ptr;
    }
    copy_until(text_.size());
    return {out_.data(), static_cast<std::size_t>(to - out_.data())};
}

namespace {

// Whoever takes the line out has it: a handler that has it does not give it back.
std::atomic<MetricsLine*> last_line = nullptr;
std::atomic<int> last_file = -1;

}  // namespace

void LastMetrics::publish(std::unique_ptr<MetricsLine> line, int file) {
    withdraw();
    line_ = std::move(line);
    last_file = file;
    last_line = line_.get();
}

void LastMetrics::withdraw() {
    if (!line_) return;
    // Another thread's handler is writing it, and ends the process then.
    while (last_line.exchange(nullptr) == nullptr) sched_yield();
    line_.reset();
}

void LastMetrics::write_from_signal() {
    MetricsLine* line = last_line.exchange(nullptr);
    if (line == nullptr) return;
    const std::string_view text = line->peek();
    [[maybe_unused]] const ssize_t written = ::write(last_file, text.data(), text.size());
}

}  // namespace wherry::vmm
