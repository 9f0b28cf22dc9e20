#include "dns/steering/recorder.hpp"

#include <fcntl.h>

#include <algorithm>
#include <bit>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "dns/steering/prefix.hpp"

namespace wherry::dns::steering {

QueryRecorder::QueryRecorder(Fd file, std::vector<std::string> names)
    : file_(std::move(file)), names_(std::move(names)), ring_(slots) {
    thread_ = std::thread([this] { run(); });
}

QueryRecorder::~QueryRecorder() {
    {
        std::lock_guard hold(lock_);
        stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
}

Result<std::shared_ptr<QueryRecorder>> QueryRecorder::create(const std::string& path, std::vector<std::string> names) {
    Fd file = TRY(open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0640), "query log");
    return std::shared_ptr<QueryRecorder>(new QueryRecorder(std::move(file), std::move(names)));
}

void QueryRecorder::note(std::uint16_t name, std::span<const std::uint8_t> address, std::uint8_t bits) {
    std::uint64_t number = next_.fetch_add(1, std::memory_order_relaxed);
    Slot& slot = ring_[number % slots];
    // A reader that looks in between sees 0, or the number changed, and passes over the slot.
    slot.number.store(0, std::memory_order_release);
    std::array<std::uint8_t, 16> bytes{};
    std::ranges::copy(address.first(std::min<std::size_t>(address.size(), 16)), bytes.begin());
    auto halves = std::bit_cast<std::array<std::uint64_t, 2>>(bytes);
    slot.words[0].store(halves[0], std::memory_order_release);
    slot.words[1].store(halves[1], std::memory_order_release);
    slot.words[2].store(static_cast<std::uint64_t>(name) << 16U | address.size() << 8U | bits,
                        std::memory_order_release);
    slot.number.store(number, std::memory_order_release);
}

void QueryRecorder::run() {
    std::unique_lock hold(lock_);
    while (!stopping_) {
        wake_.wait_for(hold, std::chrono::seconds(1), [&] { return stopping_; });
        drain();
    }
}

void QueryRecorder::drain() {
    std::uint64_t end = next_.load(std::memory_order_acquire);
    std::uint64_t first = std::max<std::uint64_t>(written_ + 1, end > slots ? end - slots : 1);
    std::uint64_t lost = first - (written_ + 1);
    std::string text;
    auto now = std::to_string(std::chrono::duration_cast<std::chrono::seconds>(wall_now().time_since_epoch()).count());
    for (std::uint64_t number = first; number < end; ++number) {
        const Slot& slot = ring_[number % slots];
        if (slot.number.load(std::memory_order_acquire) != number) {
            ++lost;
            continue;
        }
        std::array<std::uint64_t, 2> halves{slot.words[0].load(std::memory_order_acquire),
                                            slot.words[1].load(std::memory_order_acquire)};
        std::uint64_t rest = slot.words[2].load(std::memory_order_acquire);
        auto bytes = std::bit_cast<std::array<std::uint8_t, 16>>(halves);
        Prefix client = Prefix::from_bytes((rest >> 8U & 0xFFU) == 16, bytes.data(), rest & 0xFFU);
        std::size_t name = rest >> 16U;
        if (slot.number.load(std::memory_order_acquire) != number || name >= names_.size()) {
            ++lost;
            continue;
        }
        text += now + " " + client.to_text() + " " + names_[name] + "\n";
    }
    written_ = end - 1;
    if (lost > 0) text += "# lost " + std::to_string(lost) + "\n";
    if (text.empty()) return;
    if (auto written = write_all(file_.get(), text); !written)
        log_error("steering.query_log", {{"error", written.error()}});
}

}  // namespace wherry::dns::steering
