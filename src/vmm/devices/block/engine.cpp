#include "vmm/devices/block/engine.hpp"

#include <array>
#include <cerrno>

#include "vmm/core/event_loop.hpp"

namespace wherry::vmm::block {
namespace {

// All this ring will ever do. Registering needs the ring disabled.
Result<> restrict_ring(io_uring& ring) {
    std::array<io_uring_restriction, 5> allowed = {};
    constexpr std::array<std::uint8_t, 3> operations = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};
    for (std::size_t i = 0; i < operations.size(); ++i) {
        allowed[i].opcode = IORING_RESTRICTION_SQE_OP;
        allowed[i].sqe_op = operations[i];
    }
    allowed[3].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    allowed[3].sqe_flags = IOSQE_FIXED_FILE;
    allowed[4].opcode = IORING_RESTRICTION_REGISTER_OP;
    allowed[4].register_op = IORING_REGISTER_FILES_UPDATE;
    if (const int result = io_uring_register_restrictions(&ring, allowed.data(), allowed.size()); result < 0)
        return fail_errno(-result, "io_uring restrictions");
    if (const int result = io_uring_enable_rings(&ring); result < 0) return fail_errno(-result, "io_uring");
    return {};
}

}  // namespace

Result<std::unique_ptr<AsyncEngine>> AsyncEngine::create(int file) {
    std::unique_ptr<AsyncEngine> engine(new AsyncEngine);
    engine->event_ = TRY(make_eventfd());
    io_uring_params parameters = {};
    parameters.flags = IORING_SETUP_R_DISABLED;
    if (const int result = io_uring_queue_init_params(depth, &engine->ring_, &parameters); result < 0)
        return fail_errno(-result, "io_uring");
    engine->ready_ = true;
    if (const int result = io_uring_register_files(&engine->ring_, &file, 1); result < 0)
        return fail_errno(-result, "io_uring file");
    if (const int result = io_uring_register_eventfd(&engine->ring_, engine->event_.get()); result < 0)
        return fail_errno(-result, "io_uring eventfd");
    TRY(restrict_ring(engine->ring_));
    engine->slots_.resize(depth);
    for (unsigned i = depth; i > 0; --i) engine->free_.push_back(i - 1);
    return engine;
}

AsyncEngine::~AsyncEngine() {
    if (!ready_) return;
    drain();
    io_uring_queue_exit(&ring_);
}

void AsyncEngine::add(Pending request) {
    const unsigned slot = free_.back();
    free_.pop_back();
    slots_[slot] = std::move(request);
    const Pending& pending = slots_[slot];
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) {  // as many entries as slots: only when the kernel has not taken the last ones yet
        io_uring_submit(&ring_);
        entry = io_uring_get_sqe(&ring_);
    }
    if (pending.operation == Operation::flush) {
        io_uring_prep_fsync(entry, 0, IORING_FSYNC_DATASYNC);
    } else {
        pending.data.prepare(*entry, 0, pending.offset, pending.operation == Operation::write);
    }
    entry->flags |= IOSQE_FIXED_FILE;
    entry->user_data = slot;
}

Result<> AsyncEngine::submit() {
    const int result = io_uring_submit(&ring_);
    if (result < 0 && result != -EAGAIN && result != -EBUSY && result != -EINTR)
        return fail_errno(-result, "io_uring_enter");
    return {};
}

void AsyncEngine::reap(const std::function<void(Pending&, std::int32_t result)>& f) {
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0 && entry != nullptr) {
        const auto slot = static_cast<unsigned>(entry->user_data);
        const std::int32_t result = entry->res;
        io_uring_cqe_seen(&ring_, entry);
        Pending pending = std::move(slots_[slot]);
        slots_[slot] = Pending{};
        free_.push_back(slot);
        f(pending, result);
    }
}

Result<> AsyncEngine::wait() {
    if (in_flight() == 0) return {};
    TRY(submit());
    io_uring_cqe* entry = nullptr;
    const int result = io_uring_wait_cqe(&ring_, &entry);
    if (result < 0 && result != -EINTR) return fail_errno(-result, "io_uring_enter");
    return {};
}

void AsyncEngine::drain() {
    while (in_flight() > 0) {
        io_uring_cqe* entry = nullptr;
        io_uring_submit(&ring_);
        const int result = io_uring_wait_cqe(&ring_, &entry);
        if (result < 0 && result != -EINTR) return;
        reap([](Pending&, std::int32_t) {});
    }
}

Result<> AsyncEngine::change_file(int file) {
    if (const int result = io_uring_register_files_update(&ring_, 0, &file, 1); result < 0)
        return fail_errno(-result, "io_uring file");
    return {};
}

}  // namespace wherry::vmm::block
