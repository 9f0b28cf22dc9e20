#include "supervisor/output.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.hpp"

namespace wherry::supervisor {

namespace {

constexpr std::array streams{LogStream::stdout_stream, LogStream::stderr_stream};
constexpr std::uint64_t unwanted = ~std::uint64_t{0};
// What a dead process can have left in a pipe: the largest pipe a user may make.
constexpr std::size_t drain_ring_bytes = 1U << 20U;

}  // namespace

OutputHub::OutputHub(EventLoop& loop, std::span<char> scratch, std::unique_ptr<LogWriter> log, WithoutClients policy)
    : loop_(loop), scratch_(scratch), log_(std::move(log)), policy_(policy) {}

OutputHub::~OutputHub() {
    for (Source& source : sources_) source.open = false;
    notify_log_waiters();
}

Result<> OutputHub::add_source(LogStream stream, Fd fd) {
    std::size_t index = stream == LogStream::stderr_stream ? 1 : 0;
    TRY(set_nonblocking(fd.get()));
    Source& source = sources_.at(index);
    source.fd = std::move(fd);
    source.watch = TRY(loop_.watch(source.fd.get(), EPOLLIN, [this, index](std::uint32_t) {
        auto keep_alive = shared_from_this();
        on_readable(index);
    }));
    source.open = true;
    return {};
}

bool OutputHub::ended() const {
    return !sources_[0].open && !sources_[1].open;
}

bool OutputHub::caught_up(const OutputClient& client) const {
    for (std::size_t i = 0; i < 2; ++i) {
        if (client.wants_.at(i) && client.offsets_.at(i) < totals_.at(i)) return false;
    }
    return true;
}

// Whether bytes that arrive now on an unlogged stream must wait in its ring.
bool OutputHub::must_keep(std::size_t index) const {
    bool any = false;
    for (const OutputClient* client : clients_) {
        if (!client->wants_.at(index)) continue;
        any = true;
        if (!caught_up(*client) || !client->ready()) return true;
    }
    return !any && policy_ == WithoutClients::hold;
}

OutputHub::ReadOutcome OutputHub::read_source(std::size_t index) {
    Source& source = sources_.at(index);
    std::size_t amount = scratch_.size();
    if (!log_ && must_keep(index)) {
        amount = std::min(amount, source.ring.free_space());
        if (amount == 0) return ReadOutcome::blocked;
    }
    ssize_t got = -1;
    do {
        got = ::read(source.fd.get(), scratch_.data(), amount);
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
        distribute(index, {scratch_.data(), static_cast<std::size_t>(got)});
        return ReadOutcome::data;
    }
    if (got < 0 && errno == EAGAIN) return ReadOutcome::nothing;
    // 0: the last writer is gone; EIO: the last one has closed the terminal.
    return ReadOutcome::end;
}

void OutputHub::on_readable(std::size_t index) {
    Source& source = sources_.at(index);
    switch (read_source(index)) {
        case ReadOutcome::data:
        case ReadOutcome::nothing:
            break;
        case ReadOutcome::blocked:
            // The watch goes altogether: a hang-up would be reported all the same.
            source.paused = true;
            source.watch.reset();
            break;
        case ReadOutcome::end:
            end_source(index);
            finish_clients();
            if (ended() && flushed_) finish_drain();
            break;
    }
}

void OutputHub::end_source(std::size_t index) {
    Source& source = sources_.at(index);
    if (!source.open) return;
    source.open = false;
    source.paused = false;
    source.watch.reset();
    source.fd.reset();
    if (log_) log_->finish(streams.at(index), wall_now());
    notify_log_waiters();
}

void OutputHub::distribute(std::size_t index, std::string_view bytes) {
    std::uint64_t begin = totals_.at(index);
    Source& source = sources_.at(index);
    bool keep = !log_ && must_keep(index);
    if (log_) log_->write(streams.at(index), bytes, wall_now());
    // Clients that are at the end get the bytes as they are, without a way round.
    std::vector<OutputClient*> fresh;
    for (OutputClient* client : clients_) {
        if (client->wants_.at(index) && client->ready() && caught_up(*client)) fresh.push_back(client);
    }
    totals_.at(index) += bytes.size();
    for (OutputClient* client : fresh) {
        client->send_output(streams.at(index), bytes);
        client->offsets_.at(index) = begin + bytes.size();
        if (log_) client->cursor_.emplace(log_->head(), log_->format(), client->offsets_);
    }
    if (!log_) {
        if (keep) {
            source.ring.append(bytes);
            release_ring(index);
        } else {
            source.ring.skip_to(totals_.at(index));
        }
    }
    notify_log_waiters();
}

StreamOffsets OutputHub::add_client(OutputClient& client, const OutputInterest& interest) {
    StreamOffsets first = totals_;
    for (std::size_t i = 0; i < 2; ++i) {
        client.wants_.at(i) = interest.wanted.at(i);
        std::uint64_t from = std::min(interest.from.at(i).value_or(totals_.at(i)), totals_.at(i));
        client.offsets_.at(i) = interest.wanted.at(i) ? from : unwanted;
        first.at(i) = from;
    }
    clients_.push_back(&client);
    // The first bytes go out after the answer to the request: from the loop.
    loop_.defer([weak = weak_from_this(), &client] {
        auto self = weak.lock();
        if (self && std::ranges::find(self->clients_, &client) != self->clients_.end()) self->pump(client);
    });
    return first;
}

void OutputHub::remove_client(OutputClient& client) {
    auto found = std::ranges::find(clients_, &client);
    if (found == clients_.end()) return;
    clients_.erase(found);
    client.cursor_.reset();
    for (std::size_t i = 0; i < 2; ++i) release_ring(i);
}

void OutputHub::client_ready(OutputClient& client) {
    if (std::ranges::find(clients_, &client) != clients_.end()) pump(client);
}

void OutputHub::discard() {
    policy_ = WithoutClients::discard;
    for (std::size_t i = 0; i < 2; ++i) release_ring(i);
}

// Forgets what every client has read, and reads on from a process that waited for the space.
void OutputHub::release_ring(std::size_t index) {
    Source& source = sources_.at(index);
    if (log_) return;
    bool any = false;
    std::uint64_t needed = totals_.at(index);
    for (const OutputClient* client : clients_) {
        if (!client->wants_.at(index)) continue;
        any = true;
        needed = std::min(needed, client->offsets_.at(index));
    }
    if (any || policy_ == WithoutClients::discard) source.ring.drop_before(needed);
    if (source.paused && source.open && source.ring.free_space() > 0) {
        auto watch = loop_.watch(source.fd.get(), EPOLLIN, [this, index](std::uint32_t) {
            auto keep_alive = shared_from_this();
            on_readable(index);
        });
        if (!watch) {
            log_error("output.watch_failed", {{"error", watch.error()}});
            return;
        }
        source.watch = std::move(*watch);
        source.paused = false;
    }
}

void OutputHub::pump(OutputClient& client) {
    bool at_end = log_ ? pump_log(client) : pump_rings(client);
    if (!at_end || !ended() || !client.ready()) return;
    remove_client(client);
    client.send_end();
}

// True when the client has everything there is so far. Entries become as few frames as possible.
bool OutputHub::pump_log(OutputClient& client) {
    std::string batch;
    std::size_t batch_index = 0;
    auto send_batch = [&] {
        if (!batch.empty()) client.send_output(streams.at(batch_index), batch);
        batch.clear();
    };
    while ((client.ready() || !batch.empty()) && !caught_up(client)) {
        if (!client.cursor_) client.cursor_.emplace(log_->find(client.offsets_), log_->format(), client.offsets_);
        auto piece = client.cursor_->next();
        if (piece && *piece) {
            std::size_t index = (*piece)->stream == LogStream::stderr_stream ? 1 : 0;
            if (!client.wants_.at(index)) continue;
            if ((*piece)->lost > 0) {
                send_batch();
                client.send_gap((*piece)->stream, (*piece)->lost);
                client.offsets_.at(index) += (*piece)->lost;
                continue;
            }
            if (index != batch_index || batch.size() + (*piece)->data.size() > max_stream_payload_bytes) send_batch();
            batch_index = index;
            batch += (*piece)->data;
            client.offsets_.at(index) += (*piece)->data.size();
            continue;
        }
        send_batch();
        if (!piece) log_warn("output.log_unreadable", {{"error", piece.error()}});
        // At the head of the log: what is missing is the begin of a line that the writer still holds.
        for (std::size_t i = 0; i < 2; ++i) {
            if (!client.wants_.at(i) || client.offsets_.at(i) >= totals_.at(i)) continue;
            std::string_view pending = log_->pending(streams.at(i));
            std::uint64_t pending_begin = totals_.at(i) - pending.size();
            std::uint64_t& offset = client.offsets_.at(i);
            if (offset < pending_begin) {
                client.send_gap(streams.at(i), pending_begin - offset);
                offset = pending_begin;
            }
            client.send_output(streams.at(i), pending.substr(static_cast<std::size_t>(offset - pending_begin)));
            offset = totals_.at(i);
        }
        client.cursor_.emplace(log_->head(), log_->format(), client.offsets_);
    }
    send_batch();
    return caught_up(client);
}

bool OutputHub::pump_rings(OutputClient& client) {
    for (std::size_t i = 0; i < 2; ++i) {
        if (!client.wants_.at(i)) continue;
        Ring& ring = sources_.at(i).ring;
        std::uint64_t& offset = client.offsets_.at(i);
        while (client.ready() && offset < totals_.at(i)) {
            std::uint64_t held_from = ring.empty() ? totals_.at(i) : ring.begin();
            if (offset < held_from) {
                client.send_gap(streams.at(i), held_from - offset);
                offset = held_from;
                continue;
            }
            std::string_view bytes = ring.peek(offset).substr(0, max_stream_payload_bytes);
            client.send_output(streams.at(i), bytes);
            offset += bytes.size();
        }
        release_ring(i);
    }
    return caught_up(client);
}

void OutputHub::finish_clients() {
    for (OutputClient* client : std::vector<OutputClient*>(clients_)) {
        if (std::ranges::find(clients_, client) != clients_.end()) pump(*client);
    }
}

void OutputHub::drain(std::function<void()> flushed) {
    auto keep_alive = shared_from_this();
    flushed_ = std::move(flushed);
    for (std::size_t i = 0; i < 2; ++i) {
        Source& source = sources_.at(i);
        if (!source.open) continue;
        // The writer is gone, so what is left is bounded by the pipe: take it all, whoever reads slowly.
        source.ring.grow(drain_ring_bytes);
        release_ring(i);
        ReadOutcome outcome = ReadOutcome::data;
        for (std::size_t rounds = 0; outcome == ReadOutcome::data && rounds < 32; ++rounds) outcome = read_source(i);
        if (outcome == ReadOutcome::end) end_source(i);
    }
    finish_clients();
    if (ended()) {
        finish_drain();
        return;
    }
    loop_.schedule(leak_timer_, leak_timeout, [this] {
        auto self = shared_from_this();
        close_sources();
    });
}

void OutputHub::close_sources() {
    auto keep_alive = shared_from_this();
    for (std::size_t i = 0; i < 2; ++i) end_source(i);
    finish_clients();
    if (flushed_) finish_drain();
}

void OutputHub::finish_drain() {
    leak_timer_.reset();
    loop_.defer(std::exchange(flushed_, {}));
}

void OutputHub::wait_log(std::uint64_t after, std::function<void()> callback) {
    log_waiters_.push_back({after, std::move(callback)});
    loop_.defer([weak = weak_from_this()] {
        if (auto self = weak.lock()) self->notify_log_waiters();
    });
}

void OutputHub::notify_log_waiters() {
    if (log_waiters_.empty()) return;
    std::vector<LogWaiter> due;
    std::uint64_t entries = log_entries();
    bool over = ended();
    std::erase_if(log_waiters_, [&](LogWaiter& waiter) {
        if (!over && entries <= waiter.after) return false;
        due.push_back(std::move(waiter));
        return true;
    });
    for (LogWaiter& waiter : due) waiter.callback();
}

}  // namespace wherry::supervisor
