// Files of containers: archive (cp), export, changes (diff); and commit.
#include <array>
#include <boost/asio/this_coro.hpp>

#include "api/docker/archive_pipe.hpp"
#include "api/docker/call.hpp"
#include "api/docker/parallel.hpp"
#include "base/encoding.hpp"

namespace wherry::api::docker {
namespace {

constexpr std::string_view stat_header = "X-Docker-Container-Path-Stat";
constexpr std::string_view tar_type = "application/x-tar";

std::string encode_stat(const engine::PathStat& stat) {
    const WallTime modified{std::chrono::seconds(stat.mtime_seconds) +
                            std::chrono::nanoseconds(stat.mtime_nanoseconds)};
    JsonWriter writer;
    writer.begin_object()
        .member("name", stat.name)
        .member("size", stat.size_bytes)
        .member("mode", stat.mode)
        .member("mtime", format_rfc3339_short(modified))
        .member("linkTarget", stat.link_target)
        .end_object();
    return base64_encode(writer.take());
}

Result<std::string> wanted_path(const Call& call) {
    std::string path = call.text("path");
    if (path.empty()) return fail(Code::invalid_argument, "bad parameter: path cannot be empty");
    if (path.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "bad parameter: path holds a zero byte");
    return path;
}

asio::awaitable<Result<>> stat_path(Call& call) {
    CO_TRY(std::string path, wanted_path(call));
    CO_TRY(const engine::PathStat stat, co_await call.engine.containers().stat_path(call.name(), std::move(path)));
    call.exchange.set_header(stat_header, encode_stat(stat));
    co_return co_await call.send_status(200);
}

// The engine's bytes to the client; at the end the engine says whether they are all.
asio::awaitable<Result<>> send_transfer(http::Exchange& exchange, ArchivePipe& pipe, engine::ArchiveTransfer& transfer,
                                        std::string_view type) {
    while (true) {
        auto data = co_await pipe.read_some();
        if (data && data->empty()) {
            // A failure before the first byte still has a status of its own.
            auto finished = co_await transfer.finish();
            if (!finished && exchange.responded()) exchange.abort();
            if (!finished) co_return finished;
            if (!exchange.responded()) co_return co_await exchange.send(200, std::string(type), {});
            co_return Result<>{};
        }
        if (!data) {
            if (exchange.responded()) exchange.abort();
            co_return std::unexpected(std::move(data).error());
        }
        if (!exchange.responded()) CO_CHECK(co_await exchange.stream(200, std::string(type)));
        CO_CHECK(co_await exchange.write(*data));
    }
}

asio::awaitable<Result<>> read_archive(Call& call) {
    CO_TRY(std::string path, wanted_path(call));
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::from_engine));
    CO_TRY(auto transfer,
           co_await call.engine.containers().read_archive(call.name(), std::move(path), pipe.take_engine_end()));
    call.exchange.set_header(stat_header, encode_stat(transfer->stat()));
    co_return co_await send_transfer(call.exchange, pipe, *transfer, tar_type);
}

asio::awaitable<Result<>> extract(engine::Containers& containers, std::string name, std::string path,
                                  engine::ExtractOptions options, Fd archive) {
    co_return co_await containers.write_archive(std::move(name), std::move(path), options, std::move(archive));
}

asio::awaitable<Result<>> write_archive(Call& call) {
    CO_TRY(std::string path, wanted_path(call));
    // Go's truth here: anything but these is false.
    const auto truth = [&](std::string_view key) {
        const std::string value = call.text(key);
        return value == "1" || value == "t" || value == "T" || value == "true" || value == "TRUE" || value == "True";
    };
    const engine::ExtractOptions options{.keep_kinds = truth("noOverwriteDirNonDir"),
                                         .copy_owners = truth("copyUIDGID")};
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::to_engine));
    Fd archive = pipe.take_engine_end();
    auto [sent, extracted] =
        co_await run_both(pipe.send_body(call.exchange),
                          extract(call.engine.containers(), call.name(), std::move(path), options, std::move(archive)));
    // The engine's verdict comes first: when it stops reading, the pump's broken pipe is only the echo.
    if (!extracted) co_return std::move(extracted);
    if (!sent) co_return std::move(sent);
    co_return co_await call.send_status(200);
}

asio::awaitable<Result<>> export_root(Call& call) {
    CO_TRY(auto pipe, ArchivePipe::create(co_await asio::this_coro::executor, ArchivePipe::Direction::from_engine));
    CO_TRY(auto transfer, co_await call.engine.containers().export_root(call.name(), pipe.take_engine_end()));
    co_return co_await send_transfer(call.exchange, pipe, *transfer, "application/octet-stream");
}

asio::awaitable<Result<>> changes(Call& call) {
    CO_TRY(const auto found, co_await call.engine.containers().changes(call.name()));
    JsonWriter writer;
    if (found.empty()) {
        writer.null();
    } else {
        writer.begin_array();
        for (const engine::FileChange& change : found)
            writer.begin_object()
                .member("Path", change.path)
                .member("Kind", static_cast<int>(change.kind))
                .end_object();
        writer.end_array();
    }
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> commit(Call& call) {
    engine::CommitRequest request;
    request.container = call.text("container");
    request.repository = call.text("repo");
    request.tag = call.text("tag");
    request.author = call.text("author");
    request.comment = call.text("comment");
    for (std::string_view lines : call.query().all("changes")) {
        // One parameter may hold several instructions.
        while (!lines.empty()) {
            const std::size_t end = std::min(lines.find('\n'), lines.size());
            if (lines.find_first_not_of(" \t\r") < end) request.changes.emplace_back(lines.substr(0, end));
            lines.remove_prefix(std::min(end + 1, lines.size()));
        }
    }
    request.pause = call.flag("pause", true);
    CO_TRY(const json::object body, co_await call.json_body(Call::Body::optional));
    if (!body.empty()) {
        CO_TRY(request.config, engine::decode_config(body));
    }
    CO_TRY(const std::string id, co_await call.engine.images().commit(std::move(request)));
    JsonWriter writer;
    writer.begin_object().member("Id", id).end_object();
    co_return co_await call.send_json(201, std::move(writer));
}

}  // namespace

std::span<const Route> archive_routes() {
    static constexpr std::array routes = {
        Route{"HEAD", "/containers/{name}/archive", stat_path},
        Route{"GET", "/containers/{name}/archive", read_archive},
        Route{"PUT", "/containers/{name}/archive", write_archive},
        Route{"GET", "/containers/{name}/export", export_root},
        Route{"GET", "/containers/{name}/changes", changes},
        Route{"POST", "/commit", commit},
    };
    return routes;
}

}  // namespace wherry::api::docker
