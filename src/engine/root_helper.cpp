#include "engine/root_helper.hpp"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace wherry::engine {

namespace {
constexpr std::size_t max_report_bytes = 64U << 10U;  // two paths in hexadecimal, and some
}

// What outlives the helper: a child to be reaped, and the lock that is held until then.
struct RootHelper::Remains {
    Remains(ContainerPtr of, image::CopyProcess child, std::optional<Mutex::Guard> held, Holds holds)
        : container(std::move(of)),
          process(std::move(child)),
          guard(std::move(held)),
          counted(holds == Holds::layer ? 1 : 0) {
        container->copying += counted;
    }
    Remains(const Remains&) = delete;
    Remains& operator=(const Remains&) = delete;
    ~Remains() {
        process.kill();
        process.reap();  // nothing is left to do where bury() came to it
        container->copying -= counted;
        container->changed.notify_all();
    }

    ContainerPtr container;
    image::CopyProcess process;
    std::optional<Mutex::Guard> guard;
    int counted;
};

std::shared_ptr<RootHelper> RootHelper::adopt(Core& core, ContainerPtr container, image::CopyProcess process,
                                              std::optional<Mutex::Guard> guard, Holds holds) {
    std::shared_ptr<RootHelper> helper(new RootHelper(core));
    boost::system::error_code error;
    helper->reports_.assign(process.take_reports().release(), error);
    std::erase_if(container->copies, [](const auto& copy) { return copy.expired(); });
    if (holds == Holds::layer) container->copies.push_back(helper);
    helper->remains_ = std::make_shared<Remains>(std::move(container), std::move(process), std::move(guard), holds);
    return helper;
}

asio::awaitable<void> RootHelper::bury(Core& core, std::shared_ptr<Remains> remains) {
    // A plain pointer: were the last reference the pool's, what belongs to the loop would be undone on one of its
    // threads.
    std::ignore = co_await core.pool.run([process = &remains->process]() -> Result<> {
        process->reap();
        return {};
    });
}

void RootHelper::stop() {
    if (!remains_) return;
    remains_->process.kill();
    core_.gate.spawn(bury(core_, std::exchange(remains_, nullptr)));
}

asio::awaitable<Result<std::string>> RootHelper::next_report() {
    while (true) {
        if (const std::size_t end = pending_.find('\n'); end != std::string::npos) {
            std::string line = pending_.substr(0, end);
            pending_.erase(0, end + 1);
            if (line.starts_with("error ")) co_return std::unexpected(image::parse_copy_error(line));
            co_return line;
        }
        if (pending_.size() > max_report_bytes) co_return fail(Code::internal, "wherry-unpack reported nonsense");
        std::array<char, 4096> buffer;
        auto [error, count] =
            co_await reports_.async_read_some(asio::buffer(buffer), asio::as_tuple(asio::use_awaitable));
        if (!remains_) co_return fail(Code::cancelled, "the copy was ended");
        if (error) co_return fail(Code::internal, "wherry-unpack ended without a report");
        pending_.append(buffer.data(), count);
    }
}

asio::awaitable<void> end_copies(ContainerPtr container) {
    for (const std::weak_ptr<RootHelper>& copy : container->copies) {
        if (const auto helper = copy.lock()) helper->stop();
    }
    container->copies.clear();
    while (container->copying > 0) co_await container->changed.wait();
}

}  // namespace wherry::engine
