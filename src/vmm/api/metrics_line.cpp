// What one line of metrics says.
#include <utility>

#include "vmm/api/controller.hpp"

namespace wherry::vmm::api {
namespace {

void add_api(MetricsLine& line, ApiMetrics& api) {
    for (auto& [section, pairs] : api.requests) {
        line.begin(section);
        for (auto& [name, pair] : pairs) {
            line.add(name + "_count", &pair.count);
            line.add(name + "_fails", &pair.fails);
        }
    }
    line.begin("api_server");
    line.add("process_startup_time_us", api.process_startup_time_us);
    line.add("process_startup_time_cpu_us", api.process_startup_time_cpu_us);
    line.add("sync_vmm_send_timeout_count", &api.sync_vmm_send_timeout_count);
}

using Named = std::vector<std::pair<std::string, NamedCounters>>;

template <class Devices>
Named named(const std::string& kind, const Devices& devices) {
    Named out;
    for (const auto& device : devices) out.emplace_back(kind + "_" + device->id(), counters_of(&device->metrics));
    return out;
}

// Every device under its own name, and their sum under the kind's, whose names `none` has.
void add_devices(MetricsLine& line, std::string_view kind, const Named& devices, const NamedCounters& none) {
    for (const auto& [name, counters] : devices) line.add_section(name, counters);
    line.begin(kind);
    for (std::size_t i = 0; i < none.size(); ++i) {
        std::vector<Counter*> summands;
        for (const auto& [name, counters] : devices) summands.push_back(counters[i].counter);
        line.add_sum(none[i].name, summands);
    }
}

template <class Metrics>
NamedCounters absent() {
    return counters_of<Metrics>(nullptr);
}

}  // namespace

std::unique_ptr<MetricsLine> Controller::make_metrics_line() {
    auto made = std::make_unique<MetricsLine>();
    MetricsLine& line = *made;
    add_api(line, metrics_.api);
    line.begin("logger");
    line.add("missed_log_count", &logger_metrics().missed_log_count);
    line.add("missed_metrics_count", &logger_metrics().missed_metrics_count);
    line.add_section("signals", counters_of(&signal_metrics()));
    line.begin("seccomp");
    line.add("num_faults", &signal_metrics().seccomp_faults);
    line.add_section("mmds", counters_of(&mmds_->metrics));
    line.begin("vmm");
    line.add("panic_count", nullptr);
    Machine* machine = machine_.get();
    const auto of = [](auto* device) { return device != nullptr ? &device->metrics : nullptr; };
    static const std::vector<std::shared_ptr<block::BlockDevice>> no_drives;
    static const std::vector<std::shared_ptr<net::NetDevice>> no_networks;
    static const std::vector<std::shared_ptr<pmem::PmemDevice>> no_pmems;
    add_devices(line, "block", named("block", machine != nullptr ? machine->drives() : no_drives),
                absent<block::Metrics>());
    add_devices(line, "net", named("net", machine != nullptr ? machine->networks() : no_networks),
                absent<net::Metrics>());
    add_devices(line, "pmem", named("pmem", machine != nullptr ? machine->pmems() : no_pmems), absent<pmem::Metrics>());
    line.add_section("memory_hotplug", counters_of(of(machine != nullptr ? machine->memory_hotplug() : nullptr)));
    line.add_section("uart", counters_of(of(machine != nullptr ? &machine->serial() : nullptr)));
    line.add_section("i8042", counters_of(of(machine != nullptr ? &machine->keyboard() : nullptr)));
    line.add_section("vsock", counters_of(of(machine != nullptr ? machine->vsock() : nullptr)));
    line.add_section("balloon", counters_of(of(machine != nullptr ? machine->balloon() : nullptr)));
    line.add_section("entropy", counters_of(of(machine != nullptr ? machine->entropy() : nullptr)));
    if (machine != nullptr && !machine->folders().empty())
        add_devices(line, "fs", named("fs", machine->folders()), absent<fs::Metrics>());
    line.add_section("vcpu", counters_of(of(machine != nullptr ? &machine->vcpus() : nullptr)));
    line.finish();
    return made;
}

void Controller::write_metrics() {
    if (!metrics_.is_open()) return;
    auto line = make_metrics_line();
    // What cannot be written is counted, and there is nobody to tell.
    [[maybe_unused]] const auto written = metrics_.write(line->take());
    last_metrics_.publish(std::move(line), metrics_.file());
}

void Controller::prepare_last_metrics() {
    if (metrics_.is_open()) last_metrics_.publish(make_metrics_line(), metrics_.file());
}

}  // namespace wherry::vmm::api
