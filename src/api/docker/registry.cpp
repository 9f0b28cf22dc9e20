// Registries: pull, push, login, search, and what a name means elsewhere.
#include "api/docker/registry.hpp"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <deque>
#include <memory>

#include "api/docker/call.hpp"
#include "api/docker/parallel.hpp"

namespace wherry::api::docker {

namespace {

constexpr std::size_t auth_body_limit = 64U << 10U;

// "12.3MB", three or four digits with decimal units, as docker's bars have them.
std::string human_bytes(std::uint64_t bytes) {
    constexpr std::array units{"B", "kB", "MB", "GB", "TB", "PB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1000 && unit + 1 < units.size()) {
        value /= 1000;
        ++unit;
    }
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.4g%s", value, units.at(unit));
    return text.data();
}

std::string bar(std::uint64_t current, std::uint64_t total) {
    constexpr std::size_t width = 50;
    if (total == 0) return human_bytes(current);
    const std::size_t done = static_cast<std::size_t>(std::min<std::uint64_t>(current, total) * width / total);
    std::string text = "[" + std::string(done, '=');
    if (done < width) text += '>' + std::string(width - done - 1, ' ');
    return text + "]  " + human_bytes(current) + "/" + human_bytes(total);
}

}  // namespace

std::string step_line(const engine::TransferStep& step) {
    JsonWriter writer;
    writer.begin_object();
    if (step.pushed) {
        writer.key("progressDetail").begin_object().end_object();
        writer.key("aux")
            .begin_object()
            .member("Tag", step.pushed->tag)
            .member("Digest", step.pushed->digest)
            .member("Size", step.pushed->size_bytes)
            .end_object()
            .end_object();
        return writer.take() + "\r\n";
    }
    writer.member("status", step.status);
    // "Pulling from …" carries the tag as its id and is about no layer.
    if (!step.id.empty() && !step.status.starts_with("Pulling from ")) {
        writer.key("progressDetail").begin_object();
        if (step.current_bytes > 0) {
            writer.member("current", step.current_bytes);
            if (step.total_bytes > 0) writer.member("total", step.total_bytes);
        }
        writer.end_object();
        if (step.current_bytes > 0) writer.member("progress", bar(step.current_bytes, step.total_bytes));
    }
    if (!step.id.empty()) writer.member("id", step.id);
    writer.end_object();
    return writer.take() + "\r\n";
}

namespace {

// Steps on their way from the engine to the client; a slow client gets the newest step of each layer.
struct StepQueue {
    explicit StepQueue(const asio::any_io_executor& executor) : wake(executor, asio::steady_timer::time_point::max()) {}

    void add(engine::TransferStep step) {
        if (gone) return;
        if (step.current_bytes > 0) {
            for (engine::TransferStep& waiting : steps) {
                if (waiting.id == step.id && waiting.status == step.status && waiting.current_bytes > 0) {
                    waiting = std::move(step);
                    return;
                }
            }
        }
        steps.push_back(std::move(step));
        wake.cancel();
    }

    std::deque<engine::TransferStep> steps;
    asio::steady_timer wake;
    engine::CancelFlag cancelled = std::make_shared<std::atomic<bool>>(false);
    bool ended = false;
    bool gone = false;
};

using Queue = std::shared_ptr<StepQueue>;

// Until the work has ended. The head is sent with the first step, so that what fails before has a status of its own.
asio::awaitable<Result<>> send_steps(http::Exchange& exchange, Queue queue) {
    while (true) {
        while (!queue->steps.empty() && !queue->gone) {
            const std::string line = step_line(queue->steps.front());
            queue->steps.pop_front();
            Result<> sent;
            if (!exchange.responded()) sent = co_await exchange.stream(200, "application/json");
            if (sent) sent = co_await exchange.write(line);
            if (!sent) {
                queue->gone = true;
                queue->cancelled->store(true);
            }
        }
        if (queue->ended) co_return Result<>{};
        co_await queue->wake.async_wait(asio::as_tuple(asio::use_awaitable));
    }
}

asio::awaitable<Result<>> until_end(asio::awaitable<Result<>> work, Queue queue) {
    Result<> result = co_await std::move(work);
    queue->ended = true;
    queue->wake.cancel();
    co_return result;
}

asio::awaitable<Result<>> transfer(http::Exchange& exchange, Queue queue, asio::awaitable<Result<>> work) {
    auto [sent, done] = co_await run_both(send_steps(exchange, queue), until_end(std::move(work), queue));
    if (done || !exchange.responded() || queue->gone) co_return std::move(done);
    co_return co_await exchange.write(error_line(done.error()));
}

// The client's going away ends the work; the work's end is waited for in any case.
asio::awaitable<Result<>> transfer_while_connected(http::Exchange& exchange, Queue queue,
                                                   asio::awaitable<Result<>> work) {
    co_return co_await exchange.while_connected(transfer(exchange, queue, std::move(work)), [queue] {
        queue->gone = true;
        queue->cancelled->store(true);
        queue->wake.cancel();
    });
}

Result<engine::RegistryCredentials> credentials_of(const Call& call) {
    return image::parse_registry_auth(call.exchange.request().headers.get("X-Registry-Auth"));
}

asio::awaitable<Result<>> push(Call& call) {
    CO_CHECK(co_await call.exchange.read_all(auth_body_limit));  // what older clients send there is in the header, too
    engine::PushOptions options;
    options.reference = call.name();
    if (const std::string tag = call.text("tag"); !tag.empty()) options.reference += ":" + tag;
    CO_TRY(options.credentials, credentials_of(call));
    auto queue = std::make_shared<StepQueue>(co_await asio::this_coro::executor);
    options.cancelled = queue->cancelled;
    co_return co_await transfer_while_connected(
        call.exchange, queue, call.engine.images().push(std::move(options), [queue](engine::TransferStep step) {
            queue->add(std::move(step));
        }));
}

asio::awaitable<Result<>> login(Call& call) {
    CO_TRY(const json::object body, co_await call.json_body(Call::Body::required));
    const JsonReader reader(body);
    engine::RegistryCredentials credentials;
    CO_TRY(credentials.username, reader.string_or("username", ""));
    CO_TRY(credentials.password, reader.string_or("password", ""));
    CO_TRY(credentials.identity_token, reader.string_or("identitytoken", ""));
    CO_TRY(credentials.registry_token, reader.string_or("registrytoken", ""));
    CO_TRY(const std::string server, reader.string_or("serveraddress", ""));
    CO_CHECK(image::check_credentials(credentials));
    CO_TRY(const std::string token, co_await call.engine.images().login(server, std::move(credentials)));
    JsonWriter writer;
    writer.begin_object().member("Status", "Login Succeeded").member("IdentityToken", token).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> distribution(Call& call) {
    CO_TRY(auto credentials, credentials_of(call));
    CO_TRY(const engine::RemoteImageView remote,
           co_await call.engine.images().inspect_remote(call.name(), std::move(credentials)));
    JsonWriter writer;
    writer.begin_object()
        .key("Descriptor")
        .begin_object()
        .member("mediaType", remote.media_type)
        .member("digest", remote.digest)
        .member("size", remote.size_bytes)
        .end_object();
    writer.key("Platforms").begin_array();
    for (const engine::RemoteImageView::Platform& platform : remote.platforms) {
        writer.begin_object().member("architecture", platform.architecture).member("os", platform.os);
        if (!platform.os_version.empty()) writer.member("os.version", platform.os_version);
        if (!platform.variant.empty()) writer.member("variant", platform.variant);
        writer.end_object();
    }
    writer.end_array().end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> search(Call& call) {
    engine::ImageSearchOptions options;
    options.term = call.text("term");
    CO_TRY(const std::optional<std::int64_t> limit, call.integer("limit"));
    if (limit && (*limit < 0 || *limit > 1000))
        co_return fail(Code::invalid_argument, "limit " + std::to_string(*limit) + " is outside the range of [1, 100]");
    options.limit = static_cast<int>(limit.value_or(0));
    CO_TRY(options.filters, call.filters());
    CO_TRY(options.credentials, credentials_of(call));
    CO_TRY(const auto hits, co_await call.engine.images().search(std::move(options)));
    JsonWriter writer;
    writer.begin_array();
    for (const engine::ImageSearchHit& hit : hits)
        writer.begin_object()
            .member("star_count", hit.stars)
            .member("is_official", hit.official)
            .member("name", hit.name)
            .member("is_automated", hit.automated)
            .member("description", hit.description)
            .end_object();
    writer.end_array();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> verify_image(engine::Images& images, std::string name, engine::CancelFlag cancelled) {
    co_return co_await images.verify(std::move(name), std::move(cancelled));
}

// Not Docker's: reads an image's files again and tells whether they are what they were.
asio::awaitable<Result<>> verify(Call& call) {
    auto cancelled = std::make_shared<std::atomic<bool>>(false);
    auto checked = co_await call.exchange.while_connected(verify_image(call.engine.images(), call.name(), cancelled),
                                                          [cancelled] { cancelled->store(true); });
    if (!checked && checked.error().code() != Code::data_loss) co_return checked;
    JsonWriter writer;
    writer.begin_object().member("Intact", checked.has_value());
    writer.member("Problem", checked ? std::string() : checked.error().describe()).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

asio::awaitable<Result<>> pull(Call& call) {
    CO_CHECK(co_await call.exchange.read_all(auth_body_limit));
    engine::PullOptions options;
    options.reference = call.text("fromImage");
    if (const std::string tag = call.text("tag"); !tag.empty())
        options.reference += (tag.contains(':') ? "@" : ":") + tag;
    options.platform = call.text("platform");
    CO_TRY(options.credentials, credentials_of(call));
    auto queue = std::make_shared<StepQueue>(co_await asio::this_coro::executor);
    options.cancelled = queue->cancelled;
    co_return co_await transfer_while_connected(
        call.exchange, queue, call.engine.images().pull(std::move(options), [queue](engine::TransferStep step) {
            queue->add(std::move(step));
        }));
}

std::span<const Route> registry_routes() {
    static constexpr std::array routes = {
        Route{"POST", "/auth", login},
        Route{"GET", "/images/search", search},
        Route{"POST", "/images/{name:.*}/push", push},
        Route{"GET", "/distribution/{name:.*}/json", distribution},
        Route{"GET", "/wherry/images/{name:.*}/verify", verify},
    };
    return routes;
}

}  // namespace wherry::api::docker
