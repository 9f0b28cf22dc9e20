// The queues while nobody serves them: each request is answered with an error at once, rather than left to hang.
#include <linux/fuse.h>
#include <sys/epoll.h>

#include <cerrno>

#include "vmm/devices/fs/device.hpp"

namespace wherry::vmm::fs {
namespace {

bool has_no_answer(std::uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

}  // namespace

void FsDevice::refuse(std::uint16_t index) {
    const auto request = chain_.readable.read<fuse_in_header>(0);
    std::uint32_t written = 0;
    if (request && !has_no_answer(request->opcode)) {
        const fuse_out_header answer = {.len = sizeof answer, .error = -ENOTCONN, .unique = request->unique};
        if (chain_.writable.write(0, answer)) written = sizeof answer;
    }
    queue(index).push(chain_.head, written);
    metrics.refused_count.add();
}

// All that was popped is either in the used ring or noted as in flight.
Result<> FsDevice::take_over(std::uint16_t index) {
    Queue& mine = queue(index);
    const std::uint16_t used = memory().load_acquire(mine.state.used + 2).value_or(0);
    const auto left = notes_.left(index, used);
    mine.state.next_used = mine.state.signalled_used = used;
    mine.state.next_available = static_cast<std::uint16_t>(used + left.size());
    for (const std::uint16_t head : left) {
        TRY(mine.read_chain(head, chain_));
        refuse(index);
    }
    // In any case: the last answers of the process that is gone may not have been told.
    interrupt().queue_used(index);
    return refuse_all(index);
}

Result<> FsDevice::refuse_all(std::uint16_t index) {
    if (!kick_watches_[index])
        kick_watches_[index] = TRY(watch(kicks_[index], EPOLLIN, [this, index](std::uint32_t) -> Result<> {
            drain_eventfd(kicks_[index]);
            return working() && queue(index).started() && !frontend_ ? refuse_all(index) : Result<>();
        }));
    for (unsigned count = 0; TRY(queue(index).pop(chain_)); ++count) {
        if (count == turn) {
            queue(index).undo_pop();
            again(index);
            break;
        }
        refuse(index);
    }
    signal(index);
    return {};
}

}  // namespace wherry::vmm::fs
