// Metrics as lines of JSON in Firecracker's shape, written to a file or pipe every minute, on request and at the end,
// also when that is a signal's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/counter.hpp"

namespace wherry::vmm {

// How often each kind of request came, and how often it was refused.
struct ApiMetrics {
    ApiMetrics();
    // Does nothing for names that are not listed. Thread-safe.
    void count(std::string_view section, std::string_view name, bool is_failure);

    struct Pair {
        Counter count;
        Counter fails;
    };
    // By section ("get_api_requests", "put_api_requests", "patch_api_requests") and Firecracker's name of the request.
    std::map<std::string, std::map<std::string, Pair, std::less<>>, std::less<>> requests;
    Gauge process_startup_time_us;
    Gauge process_startup_time_cpu_us;
    Counter sync_vmm_send_timeout_count;
};

// What the process was told by the kernel. Counted by signal handlers.
struct SignalMetrics {
    Counter sigbus;
    Counter sigsegv;
    Counter sigxfsz;
    Counter sigxcpu;
    Counter sigpipe;
    Counter sighup;
    Counter sigill;
    Counter seccomp_faults;

    template <class F>
    void for_each(F f) {
        f("sigbus", sigbus);
        f("sigsegv", sigsegv);
        f("sigxfsz", sigxfsz);
        f("sigxcpu", sigxcpu);
        f("sigpipe", sigpipe);
        f("sighup", sighup);
        f("sigill", sigill);
    }
};
SignalMetrics& signal_metrics();

struct NamedCounter {
    std::string_view name;
    Counter* counter = nullptr;  // none: zero
};
using NamedCounters = std::vector<NamedCounter>;
// Kept out of line: there are hundreds of names.
void add_counter(NamedCounters& to, const char* name, Counter* counter);

// The counters of a device or part. One that is not there has the same names: readers find them in every line.
template <class Metrics>
NamedCounters counters_of(Metrics* metrics) {
    NamedCounters out;
    Metrics none;
    (metrics != nullptr ? *metrics : none).for_each([&](const char* name, Counter& counter) {
        add_counter(out, name, metrics != nullptr ? &counter : nullptr);
    });
    return out;
}

// A line that is all but written: its text with places for values, and where they come from. Those must live until the
// line is gone.
class MetricsLine {
  public:
    MetricsLine();
    void begin(std::string_view section);
    void add(std::string_view name, Counter* counter);
    void add(std::string_view name, const Gauge& gauge);
    // The sum of counters, all of which were added before.
    void add_sum(std::string_view name, std::span<Counter* const> counters);
    void add_section(std::string_view section, const NamedCounters& counters);
    // Nothing is added from here on.
    void finish();

    // The line, with what was counted since the one before; the text lives until the next call. peek() is
    // async-signal-safe, and does not make its line one before.
    std::string_view take();
    std::string_view peek();

  private:
    struct Value {
        std::size_t text_end = 0;  // what is written before it
        std::size_t first = 0;     // its summands, in summands_
        std::size_t count = 0;
        const Gauge* gauge = nullptr;
    };
    std::string_view format();
    void name(std::string_view name);

    std::string text_;
    std::vector<Value> values_;
    std::vector<Counter*> counters_;
    std::vector<std::uint64_t> counted_;  // by counter
    std::vector<std::size_t> summands_;   // indexes of counters
    std::vector<char> out_;
};

// The line that is written when a signal ends the process. One at a time.
class LastMetrics {
  public:
    LastMetrics() = default;
    ~LastMetrics() { withdraw(); }
    LastMetrics(const LastMetrics&) = delete;
    LastMetrics& operator=(const LastMetrics&) = delete;

    void publish(std::unique_ptr<MetricsLine> line, int file);
    // Before what the line refers to goes.
    void withdraw();
    // Async-signal-safe; once. Nothing when there is no line.
    static void write_from_signal();

  private:
    std::unique_ptr<MetricsLine> line_;
};

class MetricsWriter {
  public:
    ApiMetrics api;

    // conflict when it has a file already.
    Result<> open(const std::string& path);
    bool is_open() const { return static_cast<bool>(file_); }
    int file() const { return file_.get(); }
    Result<> write(std::string_view line);

  private:
    Fd file_;
};

}  // namespace wherry::vmm
