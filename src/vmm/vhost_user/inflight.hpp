// What the process that serves a device's queues has taken and not answered: noted in memory that both ends see, so
// that nothing of it is lost or answered twice when that process dies (vhost-user's inflight description, for split
// rings).
//
// The process that serves writes, the monitor reads when the other is gone. What is read may be anything: numbers of
// descriptors are proven (below the queue's size, each once), whether they are requests their chains will tell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/vhost_user/message.hpp"

namespace wherry::vmm::vhost_user {

class Inflight {
  public:
    // New memory, empty. Whoever gets it cannot make it smaller.
    static Result<Inflight> create(std::uint16_t queues, std::uint16_t queue_size);
    // The monitor's. invalid_argument when the file is smaller than it says.
    static Result<Inflight> map(Fd file, const InflightDescription& description);
    Inflight(Inflight&& other) noexcept;
    Inflight& operator=(Inflight&& other) noexcept;
    Inflight(const Inflight&) = delete;
    Inflight& operator=(const Inflight&) = delete;
    ~Inflight();

    int file() const { return file_.get(); }
    InflightDescription description() const;
    std::uint16_t queues() const { return queues_; }

    // A queue begins with nothing in flight, its ring's index of used requests as given.
    void begin(std::uint16_t queue, std::uint16_t used);
    // In this order: before a request has any effect, before the ring shows its answer, after that.
    void taken(std::uint16_t queue, std::uint16_t head);
    void answering(std::uint16_t queue, std::uint16_t head);
    void answered(std::uint16_t queue, std::uint16_t head, std::uint16_t used);
    // What was taken and not answered, in no order, when the ring's index is `used`.
    std::vector<std::uint16_t> left(std::uint16_t queue, std::uint16_t used);

  private:
    Inflight() = default;
    std::byte* at(std::uint16_t queue, std::size_t offset) const;
    template <class T>
    T load(std::uint16_t queue, std::size_t offset) const;
    template <class T>
    void store(std::uint16_t queue, std::size_t offset, T value);

    Fd file_;
    std::byte* memory_ = nullptr;
    std::uint64_t offset_ = 0, bytes_ = 0;
    std::uint16_t queues_ = 0, queue_size_ = 0;
    std::uint64_t counter_ = 0;
};

}  // namespace wherry::vmm::vhost_user
