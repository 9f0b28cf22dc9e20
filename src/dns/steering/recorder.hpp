// A log of steered queries, a line each: "TIME CLIENT/BITS NAME". Queries leave a note in a ring without waiting; a
// thread writes the notes to the file every second. When queries come faster than that, notes are lost and counted ("#
// lost N").
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::dns::steering {

class QueryRecorder {
  public:
    // Appends to the file; `names` by number.
    static Result<std::shared_ptr<QueryRecorder>> create(const std::string& path, std::vector<std::string> names);
    ~QueryRecorder();
    QueryRecorder(const QueryRecorder&) = delete;
    QueryRecorder& operator=(const QueryRecorder&) = delete;

    // From any thread; neither blocks nor allocates. 4 or 16 bytes.
    void note(std::uint16_t name, std::span<const std::uint8_t> address, std::uint8_t bits);

  private:
    static constexpr std::uint64_t slots = 1U << 16U;
    struct Slot {
        std::atomic<std::uint64_t> number{0};  // of the note that is whole in here; 0: none
        // The address, and name << 16 | size << 8 | bits: atomic, since a writer may come round while it is read.
        std::array<std::atomic<std::uint64_t>, 3> words{};
    };

    QueryRecorder(Fd file, std::vector<std::string> names);
    void run();
    void drain();

    Fd file_;
    std::vector<std::string> names_;
    std::vector<Slot> ring_;
    std::atomic<std::uint64_t> next_{1};
    std::uint64_t written_ = 0;  // the writer's
    std::mutex lock_;
    std::condition_variable wake_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace wherry::dns::steering
