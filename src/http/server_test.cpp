#include "http/server.hpp"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "http/client.hpp"

namespace wherry::http {
namespace {

using namespace std::chrono_literals;

std::atomic<int> cancelled_polls = 0;

asio::awaitable<Result<>> sleep_for_ever() {
    asio::steady_timer timer(co_await asio::this_coro::executor, 10s);
    auto [error] = co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    if (error) {
        ++cancelled_polls;
        co_return fail(Code::cancelled, "cancelled");
    }
    co_return Result<>{};
}

asio::awaitable<Result<>> sleep_a_little() {
    asio::steady_timer timer(co_await asio::this_coro::executor, 20ms);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    co_return Result<>{};
}

asio::awaitable<void> serve(Exchange& exchange) {
    const Request& request = exchange.request();
    if (request.path == "/echo") {
        auto body = co_await exchange.read_all(1 << 20);
        if (!body) {
            unsigned status = body.error().code() == Code::resource_exhausted ? 413 : 400;
            co_await exchange.send(status, "text/plain", body.error().describe());
            co_return;
        }
        co_await exchange.send(200, "text/plain", std::move(*body));
    } else if (request.path == "/stream") {
        exchange.set_header("X-Evil", "a\r\nInjected: b");
        co_await exchange.stream(200, "text/plain");
        for (int i = 0; i < 3; ++i) co_await exchange.write("part" + std::to_string(i));
    } else if (request.path == "/hijack") {
        std::string body;
        if (request.has_body) body = (co_await exchange.read_all(1024)).value_or("");
        auto stream = co_await exchange.hijack("application/vnd.docker.raw-stream");
        if (!stream) co_return;
        co_await (*stream)->write("hello " + body + "\n");
        std::array<std::byte, 64> buffer{};
        while (true) {
            auto count = co_await (*stream)->read_some(buffer);
            if (!count || *count == 0) break;
            // SAFETY: bytes as chars.
            co_await (*stream)->write({reinterpret_cast<const char*>(buffer.data()), *count});
        }
        co_await (*stream)->write("bye\n");
        co_await (*stream)->shutdown_write();
    } else if (request.path == "/poll") {
        co_await exchange.stream(200, "application/json");
        auto result = co_await exchange.while_connected(sleep_for_ever());
        if (!result) co_return;
        co_await exchange.write("done");
    } else if (request.path == "/short-poll") {
        auto result = co_await exchange.while_connected(sleep_a_little());
        co_await exchange.send(result ? 200 : 500, "text/plain", "slept");
    } else if (request.path == "/refuse") {
        co_await exchange.send(400, "text/plain", "no");
    } else if (request.path == "/who") {
        co_await exchange.send(200, "text/plain", request.client_certificate);
    } else if (request.path == "/nothing") {
        co_return;
    } else {
        co_await exchange.send(200, "text/plain", request.method + " " + request.path + "?" + request.raw_query);
    }
}

void write_pem(const std::string& path, auto writer) {
    FILE* file = std::fopen(path.c_str(), "we");
    writer(file);
    std::fclose(file);
}

// A self-signed certificate for 127.0.0.1 that is its own authority.
void make_certificate(const std::string& folder) {
    EVP_PKEY* key = ::EVP_EC_gen("P-256");
    X509* certificate = ::X509_new();
    ::X509_set_version(certificate, 2);
    ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate), 1);
    ::X509_gmtime_adj(::X509_getm_notBefore(certificate), -60);
    ::X509_gmtime_adj(::X509_getm_notAfter(certificate), 3600);
    ::X509_set_pubkey(certificate, key);
    X509_NAME* name = ::X509_get_subject_name(certificate);
    unsigned char common[] = "tester";
    ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, common, -1, -1, 0);
    ::X509_set_issuer_name(certificate, name);
    X509_EXTENSION* alternative = ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    ::X509_add_ext(certificate, alternative, -1);
    ::X509_EXTENSION_free(alternative);
    ::X509_sign(certificate, key, ::EVP_sha256());
    write_pem(folder + "/cert.pem", [&](FILE* file) { ::PEM_write_X509(file, certificate); });
    write_pem(folder + "/key.pem",
              [&](FILE* file) { ::PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr); });
    ::X509_free(certificate);
    ::EVP_PKEY_free(key);
}

class ServerTest : public ::testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/wherry-http-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        folder_ = name;
        ServerOptions options;
        options.header_timeout = 100ms;
        options.header_limit_bytes = 4096;
        auto made = Server::create(io_.get_executor(), serve, options);
        ASSERT_TRUE(made);
        server_ = std::move(*made);
        auto listening = server_->listen({.path = folder_ + "/s.sock", .mode = 0600});
        ASSERT_TRUE(listening) << listening.error().describe();
        thread_ = std::thread([this] { io_.run(); });
        auto endpoint = parse_endpoint("unix://" + folder_ + "/s.sock");
        ASSERT_TRUE(endpoint);
        client_.emplace(std::move(*endpoint));
    }

    void TearDown() override {
        if (thread_.joinable()) {
            asio::co_spawn(io_, server_->shutdown(0ms), asio::use_future).wait();
            io_.stop();
            thread_.join();
        }
        server_.reset();
        std::filesystem::remove_all(folder_);
    }

    std::string body_of(const ClientRequest& request) {
        auto response = client_->send(request);
        if (!response) return "error: " + response.error().describe();
        auto body = response->read_all();
        return body ? *body : "error: " + body.error().describe();
    }

    // Sends raw bytes and returns all that comes until the server closes.
    std::string raw(std::string_view bytes, bool half_close = true) {
        auto socket = connect_unix(folder_ + "/s.sock");
        if (!socket) return "error: " + socket.error().describe();
        if (!write_all(socket->get(), bytes)) return "error: write";
        if (half_close) ::shutdown(socket->get(), SHUT_WR);
        auto answer = read_to_end(socket->get());
        return answer ? *answer : "error: " + answer.error().describe();
    }

    std::string folder_;
    asio::io_context io_{1};
    asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
    std::unique_ptr<Server> server_;
    std::thread thread_;
    std::optional<Client> client_;
};

TEST_F(ServerTest, AnswersAndKeepsTheConnection) {
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(body_of({.target = "/a%20b?x=" + std::to_string(i)}), "GET /a b?x=" + std::to_string(i));
    EXPECT_EQ(server_->metrics().connections_total, 1U);
    struct stat info{};
    ASSERT_EQ(::stat((folder_ + "/s.sock").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST_F(ServerTest, HeadHasNoBody) {
    auto response = client_->send({.method = "HEAD", .target = "/x"});
    ASSERT_TRUE(response);
    EXPECT_EQ(response->headers().get("Content-Length"), "8");
    EXPECT_EQ(response->read_all().value_or("?"), "");
    EXPECT_EQ(body_of({.target = "/y"}), "GET /y?");
    EXPECT_EQ(server_->metrics().connections_total, 1U);
}

TEST_F(ServerTest, BodiesBothWays) {
    std::string large(900'000, 'x');
    EXPECT_EQ(body_of({.method = "POST", .target = "/echo", .body = large}), large);
    auto pipe = make_pipe();
    ASSERT_TRUE(pipe);
    std::thread writer([&] {
        for (int i = 0; i < 100; ++i) static_cast<void>(write_all(pipe->write.get(), std::string(5000, 'y')));
        pipe->write.reset();
    });
    EXPECT_EQ(body_of({.method = "POST", .target = "/echo", .body_fd = pipe->read.get()}), std::string(500'000, 'y'));
    writer.join();
    EXPECT_EQ(body_of({.target = "/stream"}), "part0part1part2");
    auto response = client_->send({.target = "/stream"});
    ASSERT_TRUE(response);
    EXPECT_FALSE(response->headers().has("Injected"));
}

TEST_F(ServerTest, AnswerBeforeTheBodyEndsTheSending) {
    std::size_t sent = 0;
    BodySource endless = [&](std::span<std::byte> buffer) -> Result<std::size_t> {
        sent += buffer.size();
        return buffer.size();
    };
    auto response = client_->send({.method = "POST", .target = "/refuse", .body_source = endless});
    ASSERT_TRUE(response) << response.error().describe();
    EXPECT_EQ(response->status(), 400U);
    EXPECT_EQ(response->read_all().value_or("?"), "no");
    response = client_->send({.method = "POST", .target = "/echo", .body_source = endless});
    ASSERT_TRUE(response) << response.error().describe();
    EXPECT_EQ(response->status(), 413U);
}

TEST_F(ServerTest, PipelinedRequestsAreAnsweredInOrder) {
    std::string answer =
        raw("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\r\n"
            "GET /short-poll HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            false);
    std::size_t first = answer.find("GET /1?");
    std::size_t second = answer.find("\r\n\r\nabc");
    std::size_t last = answer.find("GET /3?");
    EXPECT_LT(first, second);
    EXPECT_LT(second, last);
    EXPECT_NE(last, std::string::npos);
}

TEST_F(ServerTest, ContinueIsSentOnlyWhenTheBodyIsRead) {
    std::string answer = raw("POST /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 Bad Request\r\n")) << answer;
    auto socket = connect_unix(folder_ + "/s.sock");
    ASSERT_TRUE(socket);
    ASSERT_TRUE(write_all(socket->get(),
                          "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    std::array<std::byte, 25> expected{};
    ASSERT_TRUE(read_exact(socket->get(), expected));
    ASSERT_TRUE(write_all(socket->get(), "abc"));
    ::shutdown(socket->get(), SHUT_WR);
    EXPECT_TRUE(read_to_end(socket->get()).value_or("").ends_with("\r\n\r\nabc"));
}

TEST_F(ServerTest, WrongRequestsGetTheRightStatus) {
    EXPECT_TRUE(raw("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(raw("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(raw("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(raw("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(raw("GET / HTTP/3.0\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 505 "));
    EXPECT_TRUE(raw("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(5000, 'x')).starts_with("HTTP/1.1 431 "));
    EXPECT_TRUE(raw("GET /" + std::string(5000, 'x')).starts_with("HTTP/1.1 431 "));
    EXPECT_TRUE(raw("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n").starts_with("HTTP/1.1 501 "));
    EXPECT_TRUE(
        raw("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").starts_with("HTTP/1.1 400 "));
    EXPECT_TRUE(raw("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 500 "));
    EXPECT_TRUE(raw("GET / HTTP/1.1\r\nHost", false).starts_with("HTTP/1.1 408 "));  // and then silence
    EXPECT_EQ(raw(""), "");
    EXPECT_TRUE(raw("GET http://d/abs HTTP/1.0\r\n\r\n").ends_with("GET /abs?"));
}

TEST_F(ServerTest, HijackIsARawStream) {
    for (bool upgrade : {true, false}) {
        auto response = client_->send(
            {.method = "POST", .target = "/hijack", .body = "you", .content_type = "text/plain", .upgrade = upgrade});
        ASSERT_TRUE(response);
        EXPECT_EQ(response->status(), upgrade ? 101U : 200U);
        EXPECT_EQ(response->headers().get("Content-Type"), "application/vnd.docker.raw-stream");
        auto stream = response->take_stream();
        ASSERT_TRUE(stream) << stream.error().describe();
        ASSERT_TRUE(stream->write_all("ping\n"));
        ASSERT_TRUE(stream->shutdown_write());
        std::string all;
        std::array<std::byte, 64> buffer{};
        while (true) {
            auto count = stream->read_some(buffer);
            ASSERT_TRUE(count);
            if (*count == 0) break;
            // SAFETY: bytes as chars.
            all.append(reinterpret_cast<const char*>(buffer.data()), *count);
        }
        EXPECT_EQ(all, "hello you\nping\nbye\n");
    }
    // Bytes that come together with the request belong to the stream.
    EXPECT_TRUE(raw("POST /hijack HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
                    .ends_with("\r\n\r\nhello \nearlybye\n"));
}

TEST_F(ServerTest, AClientThatGoesAwayCancelsItsPoll) {
    int before = cancelled_polls;
    {
        auto response = client_->send({.target = "/poll"});
        ASSERT_TRUE(response);  // the head came at once
        EXPECT_EQ(response->status(), 200U);
        EXPECT_EQ(cancelled_polls, before);
    }
    for (int i = 0; i < 200 && cancelled_polls == before; ++i) std::this_thread::sleep_for(5ms);
    EXPECT_EQ(cancelled_polls, before + 1);
    EXPECT_EQ(body_of({.target = "/short-poll"}), "slept");
    EXPECT_EQ(body_of({.target = "/short-poll"}), "slept");
}

TEST_F(ServerTest, ShutdownCancelsAndLeavesNothing) {
    int before = cancelled_polls;
    auto response = client_->send({.target = "/poll"});
    ASSERT_TRUE(response);
    auto stream = client_->send({.method = "POST", .target = "/hijack", .upgrade = true});
    ASSERT_TRUE(stream);
    auto stopped = asio::co_spawn(io_, server_->shutdown(10ms), asio::use_future);
    ASSERT_EQ(stopped.wait_for(2s), std::future_status::ready);
    EXPECT_EQ(cancelled_polls, before + 1);
    EXPECT_EQ(server_->metrics().connections_open, 0U);
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/s.sock"));
    auto refused = client_->send({.target = "/"});
    ASSERT_FALSE(refused);
}

TEST_F(ServerTest, AnOccupiedSocketIsNotTaken) {
    auto again = server_->listen({.path = folder_ + "/s.sock"});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code(), Code::conflict);
    EXPECT_EQ(body_of({.target = "/y"}), "GET /y?");
}

TEST_F(ServerTest, TcpAndTls) {
    make_certificate(folder_);
    ASSERT_TRUE(server_->listen({.kind = Listen::Kind::tcp, .host = "127.0.0.1"}));
    ServerTls tls{.certificate = folder_ + "/cert.pem",
                  .key = folder_ + "/key.pem",
                  .certificate_authority = folder_ + "/cert.pem",
                  .verify_client = true};
    auto listening = server_->listen({.kind = Listen::Kind::tls, .host = "127.0.0.1", .tls = tls});
    ASSERT_TRUE(listening) << listening.error().describe();
    auto addresses = server_->addresses();
    ASSERT_EQ(addresses.size(), 3U);

    auto plain = parse_endpoint(addresses[1]);
    ASSERT_TRUE(plain);
    client_.emplace(std::move(*plain));
    EXPECT_EQ(body_of({.target = "/tcp"}), "GET /tcp?");

    ClientTls with{.certificate_authority = folder_ + "/cert.pem",
                   .certificate = folder_ + "/cert.pem",
                   .key = folder_ + "/key.pem"};
    auto secure = parse_endpoint(addresses[2], with);
    ASSERT_TRUE(secure);
    client_.emplace(std::move(*secure));
    EXPECT_EQ(body_of({.target = "/who"}), "tester");
    std::string large(300'000, 'z');
    EXPECT_EQ(body_of({.method = "POST", .target = "/echo", .body = large}), large);
    EXPECT_EQ(body_of({.target = "/short-poll"}), "slept");
    {
        auto response = client_->send({.method = "POST", .target = "/hijack", .upgrade = true});
        ASSERT_TRUE(response);
        auto stream = response->take_stream();
        ASSERT_TRUE(stream);
        ASSERT_TRUE(stream->write_all("x"));
        std::array<std::byte, 8> buffer{};
        ASSERT_EQ(stream->read_some(buffer).value_or(0), 7U);
        ASSERT_EQ(stream->read_some(buffer).value_or(0), 1U);
    }

    ClientTls without{.certificate_authority = folder_ + "/cert.pem"};
    auto anonymous = parse_endpoint(addresses[2], without);
    ASSERT_TRUE(anonymous);
    client_.emplace(std::move(*anonymous));
    EXPECT_TRUE(body_of({.target = "/who"}).starts_with("error: "));

    auto unverified = parse_endpoint(addresses[2], ClientTls{});
    ASSERT_TRUE(unverified);
    Client other(std::move(*unverified));
    auto refused = other.send({.target = "/"});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::unauthenticated);
}

TEST(Endpoints, AreParsed) {
    EXPECT_EQ(parse_endpoint("tcp://[::1]:99").value().describe(), "tcp://[::1]:99");
    EXPECT_EQ(parse_endpoint("tcp://host").value().port, 2375);
    EXPECT_EQ(parse_endpoint("https://host").value().port, 2376);
    EXPECT_FALSE(parse_endpoint("ssh://host"));
    EXPECT_FALSE(parse_endpoint("unix://"));
    EXPECT_FALSE(parse_endpoint("tcp://host:0x1"));
    EXPECT_FALSE(parse_endpoint("/run/x.sock"));
    EXPECT_TRUE(parse_listen("unix:///run/x.sock"));
    EXPECT_EQ(parse_listen("tcp://0.0.0.0:1").value().host, "0.0.0.0");
    EXPECT_EQ(parse_listen("fd://").value().fd, 3);
    EXPECT_FALSE(parse_listen("tcp://0.0.0.0:99999"));
    EXPECT_FALSE(parse_listen("nonsense"));
}

}  // namespace
}  // namespace wherry::http
