// Images: lists, inspection, names, archives in and out.
#include <array>
#include <boost/asio/this_coro.hpp>
#include <optional>

#include "api/docker/archive_pipe.hpp"
#include "api/docker/call.hpp"
#include "api/docker/parallel.hpp"
#include "api/docker/registry.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> list(Call& call) {
    engine::ImageListOptions options;
    options.all = call.flag("all");
    CO_TRY(options.filters, call.filters());
    // What images had before filters took references.
    if (std::string filter = call.text("filter"); !filter.empty()) options.filters["reference"].push_back(filter);
    CO_TRY(auto images, co_await call.engine.images().list(std::move(options)));
    JsonWriter writer;
    writer.begin_array();
    for (const auto& image : images) write_image_summary(writer, image, call.minor);
    writer.end_array();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> inspect(Call& call) {
    CO_TRY(auto image, co_await call.engine.images().inspect(call.name()));
    JsonWriter writer;
    write_image(writer, image, call.minor);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> history(Call& call) {
    CO_TRY(auto entries, co_await call.engine.images().history(call.name()));
    JsonWriter writer;
    write_history(writer, entries);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> tag(Call& call) {
    CO_CHECK(co_await call.engine.images().tag(call.name(), call.text("repo"), call.text("tag")));
    co_return co_await call.send_status(201);
}

asio::awaitable<Result<>> remove(Call& call) {
    engine::ImageRemoveOptions options{.force = call.flag("force"), .no_prune = call.flag("noprune")};
    CO_TRY(auto removed, co_await call.engine.images().remove(call.name(), options));
    JsonWriter writer;
    writer.begin_array();
    for (const engine::RemovedImage& item : removed) {
        if (!item.untagged.empty()) writer.begin_object().member("Untagged", item.untagged).end_object();
        if (!item.deleted.empty()) writer.begin_object().member("Deleted", item.deleted).end_object();
    }
    writer.end_array();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> prune(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto result, co_await call.engine.images().prune(std::move(filters)));
    JsonWriter writer;
    writer.begin_object().key("ImagesDeleted");
    if (result.deleted.empty()) {
        writer.null();
    } else {
        writer.begin_array();
        for (const std::string& item : result.deleted)
            writer.begin_object().member(item.starts_with("sha256:") ? "Deleted" : "Untagged", item).end_object();
        writer.end_array();
    }
    writer.member("SpaceReclaimed", result.space_reclaimed_bytes).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

// ---- archives in ----

std::string status_line(std::string_view key, std::string_view text) {
    JsonWriter writer;
    writer.begin_object().member(key, text).end_object();
    return writer.take() + "\r\n";
}

asio::awaitable<Result<>> load_into(engine::Images& images, Fd archive, engine::Progress progress,
                                    engine::TransferFunction layers) {
    co_return co_await images.load(std::move(archive), std::move(progress), std::move(layers));
}

asio::awaitable<Result<>> import_into(engine::Images& images, Fd archive, engine::ImportOptions options,
                                      std::string& id) {
    CO_TRY(id, co_await images.import(std::move(archive), std::move(options)));
    co_return Result<>{};
}

// The engine's verdict comes first: when it stops reading, the pump's broken pipe is only the echo.
Result<> verdict(std::pair<Result<>, Result<>> both) {
    if (!both.second) return std::move(both.second);
    return std::move(both.first);
}

asio::awaitable<Result<>> load(Call& call) {
    if (!call.exchange.request().has_body) co_return fail(Code::invalid_argument, "load needs an archive as its body");
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::to_engine));
    std::vector<std::string> lines;
    engine::Progress progress = [&lines](const std::string& line) {
        lines.push_back(status_line("stream", line + "\n"));
    };
    engine::TransferFunction layers;
    if (!call.flag("quiet", true))
        layers = [&lines](const engine::TransferStep& step) { lines.push_back(step_line(step)); };
    Fd archive = pipe.take_engine_end();
    Result<> loaded =
        verdict(co_await run_both(pipe.send_body(call.exchange), load_into(call.engine.images(), std::move(archive),
                                                                           std::move(progress), std::move(layers))));
    // With nothing sent yet a failure still has a status of its own.
    if (!loaded && lines.empty()) co_return loaded;
    CO_CHECK(co_await call.exchange.stream(200, "application/json"));
    for (const std::string& line : lines) CO_CHECK(co_await call.exchange.write(line));
    if (!loaded) co_return co_await call.exchange.write(error_line(loaded.error()));
    co_return Result<>{};
}

asio::awaitable<Result<>> import(Call& call) {
    engine::ImportOptions options;
    options.reference = call.text("repo");
    std::string tag = call.text("tag");
    if (!tag.empty() && !options.reference.empty()) options.reference += ":" + tag;
    options.message = call.text("message");
    options.platform = call.text("platform");
    for (std::string_view change : call.query().all("changes")) options.changes.emplace_back(change);
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::to_engine));
    std::string id;
    Fd archive = pipe.take_engine_end();
    CO_CHECK(verdict(co_await run_both(pipe.send_body(call.exchange),
                                       import_into(call.engine.images(), std::move(archive), std::move(options), id))));
    CO_CHECK(co_await call.exchange.stream(200, "application/json"));
    co_return co_await call.exchange.write(status_line("status", id));
}

asio::awaitable<Result<>> create(Call& call) {
    std::string source = call.text("fromSrc");
    if (source == "-") co_return co_await import(call);
    if (!source.empty())
        co_return fail(Code::unimplemented,
                       "importing from a URL is not offered: fetch it and import from standard input");
    if (call.text("fromImage").empty())
        co_return fail(Code::invalid_argument, "images/create needs fromImage or fromSrc");
    co_return co_await pull(call);
}

// ---- archives out ----

// `failure` keeps what went wrong for the caller, who sees the archive end early.
asio::awaitable<Result<>> save_into(engine::Images& images, std::vector<std::string> references, Fd archive) {
    co_return co_await images.save(std::move(references), std::move(archive));
}

// The head is sent with the first bytes, so that what fails before them has a status.
asio::awaitable<Result<>> send_archive(http::Exchange& exchange, ArchivePipe& pipe) {
    while (true) {
        CO_TRY(std::string data, co_await pipe.read_some());
        if (data.empty()) co_return Result<>{};
        Result<> sent;
        if (!exchange.responded()) sent = co_await exchange.stream(200, "application/x-tar");
        if (sent) sent = co_await exchange.write(data);
        if (!sent) {
            pipe.close();  // the engine sees a broken pipe and stops
            co_return sent;
        }
    }
}

asio::awaitable<Result<>> save(Call& call, std::vector<std::string> references) {
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::from_engine));
    Fd archive = pipe.take_engine_end();
    auto [sent, saved] = co_await run_both(send_archive(call.exchange, pipe),
                                           save_into(call.engine.images(), std::move(references), std::move(archive)));
    if (!sent) co_return std::move(sent);
    if (!saved && call.exchange.responded()) call.exchange.abort();  // the client must not take half an archive for one
    if (!saved) co_return std::move(saved);
    if (!call.exchange.responded()) co_return co_await call.exchange.send(200, "application/x-tar", {});
    co_return Result<>{};
}

asio::awaitable<Result<>> save_one(Call& call) {
    return save(call, {call.name()});
}

asio::awaitable<Result<>> save_many(Call& call) {
    std::vector<std::string> names;
    for (std::string_view name : call.query().all("names")) names.emplace_back(name);
    if (names.empty()) co_return fail(Code::invalid_argument, "no images to save: names is empty");
    co_return co_await save(call, std::move(names));
}

}  // namespace

std::span<const Route> image_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/images/json", list},
        Route{"GET", "/images/get", save_many},
        Route{"POST", "/images/create", create},
        Route{"POST", "/images/load", load},
        Route{"POST", "/images/prune", prune},
        Route{"GET", "/images/{name:.*}/json", inspect},
        Route{"GET", "/images/{name:.*}/history", history},
        Route{"GET", "/images/{name:.*}/get", save_one},
        Route{"POST", "/images/{name:.*}/tag", tag},
        Route{"DELETE", "/images/{name:.*}", remove},
    };
    return routes;
}

}  // namespace wherry::api::docker
