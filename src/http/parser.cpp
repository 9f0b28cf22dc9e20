#include "http/parser.hpp"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <cstring>
#include <variant>

namespace wherry::http {
namespace {

namespace beast = boost::beast;
using ErrorCode = beast::error_code;

// Takes Beast's callbacks into a MessageHead and a caller's body buffer.
template <bool is_request>
class Adapter final : public beast::http::basic_parser<is_request> {
  public:
    MessageHead head;
    std::span<std::byte> out;
    std::size_t produced = 0;

  private:
    void on_request_impl(beast::http::verb /*method*/, beast::string_view method, beast::string_view target,
                         int version, ErrorCode& /*error*/) override {
        head.method.assign(method.data(), method.size());
        head.target.assign(target.data(), target.size());
        head.version = version;
    }
    void on_response_impl(int status, beast::string_view /*reason*/, int version, ErrorCode& /*error*/) override {
        head.status = static_cast<unsigned>(status);
        head.version = version;
    }
    void on_field_impl(beast::http::field /*field*/, beast::string_view name, beast::string_view value,
                       ErrorCode& /*error*/) override {
        head.headers.add({name.data(), name.size()}, std::string(value.data(), value.size()));
    }
    void on_header_impl(ErrorCode& /*error*/) override {}
    void on_body_init_impl(const boost::optional<std::uint64_t>& /*length*/, ErrorCode& /*error*/) override {}
    std::size_t on_body_impl(beast::string_view body, ErrorCode& error) override { return take(body, error); }
    void on_chunk_header_impl(std::uint64_t /*size*/, beast::string_view /*extensions*/,
                              ErrorCode& /*error*/) override {}
    std::size_t on_chunk_body_impl(std::uint64_t /*remain*/, beast::string_view body, ErrorCode& error) override {
        return take(body, error);
    }
    void on_finish_impl(ErrorCode& /*error*/) override {}

    std::size_t take(beast::string_view body, ErrorCode& error) {
        std::size_t count = std::min(body.size(), out.size());
        if (count > 0) std::memcpy(out.data(), body.data(), count);
        out = out.subspan(count);
        produced += count;
        // Tells put() to stop, as Beast's own buffer_body does.
        if (count < body.size()) error = beast::http::error::need_buffer;
        return count;
    }
};

std::unexpected<Error> parse_failure(const ErrorCode& error) {
    if (error == beast::http::error::header_limit) return fail(Code::resource_exhausted, "message head is too large");
    if (error == beast::http::error::bad_version) return fail(Code::unimplemented, "unsupported HTTP version");
    return fail(Code::invalid_argument, "malformed HTTP message: " + error.message());
}

}  // namespace

struct MessageParser::State {
    State(Kind message_kind, std::size_t limit) : kind(message_kind), header_limit_bytes(limit) { reset(); }

    template <class Function>
    auto visit(Function function) {
        return parser.index() == 1 ? function(std::get<1>(parser)) : function(std::get<2>(parser));
    }
    template <class Function>
    auto visit(Function function) const {
        return parser.index() == 1 ? function(std::get<1>(parser)) : function(std::get<2>(parser));
    }

    void reset() {
        if (kind == Kind::request)
            parser.emplace<Adapter<true>>();
        else
            parser.emplace<Adapter<false>>();
        header_bytes = 0;
        visit([&](auto& p) {
            p.header_limit(static_cast<std::uint32_t>(header_limit_bytes));
            p.body_limit(boost::none);
            p.eager(false);
        });
    }

    // Beast's parsers are neither movable nor reusable: they are made anew in place.
    std::variant<std::monostate, Adapter<true>, Adapter<false>> parser;
    Kind kind;
    std::size_t header_limit_bytes;
    std::size_t header_bytes = 0;
};

MessageParser::MessageParser(Kind kind, std::size_t header_limit_bytes)
    : state_(std::make_unique<State>(kind, header_limit_bytes)) {}
MessageParser::~MessageParser() = default;
MessageParser::MessageParser(MessageParser&&) noexcept = default;
MessageParser& MessageParser::operator=(MessageParser&&) noexcept = default;

void MessageParser::reset() {
    state_->reset();
}

void MessageParser::expect_no_body() {
    state_->visit([](auto& p) { p.skip(true); });
}

Result<std::size_t> MessageParser::parse_head(std::string_view data) {
    ErrorCode error;
    std::size_t consumed =
        state_->visit([&](auto& p) { return p.put(boost::asio::buffer(data.data(), data.size()), error); });
    // Beast limits what it holds of the head at a time; the sum of its fields is limited here.
    state_->header_bytes += consumed;
    bool complete = head_done();
    std::size_t pending = complete ? 0 : data.size() - consumed;
    if (state_->header_bytes + pending > state_->header_limit_bytes)
        return fail(Code::resource_exhausted, "message head is too large");
    if (error && error != beast::http::error::need_more) return parse_failure(error);
    if (!complete) return consumed;

    MessageHead& message = head();
    state_->visit([&](auto& p) {
        message.chunked = p.chunked();
        message.keep_alive = p.keep_alive();
        if (p.content_length()) message.content_length = *p.content_length();
        message.until_end_of_stream = p.need_eof();
        p.eager(true);
    });
    if (message.headers.has("Transfer-Encoding") && !message.chunked)
        return fail(Code::unimplemented, "unsupported transfer encoding");
    if (state_->kind == Kind::request) {
        std::size_t hosts = 0;
        for (const auto& [name, value] : message.headers)
            if (equals_ignoring_case(name, "Host")) ++hosts;
        if (hosts > 1 || (hosts == 0 && message.version >= 11))
            return fail(Code::invalid_argument, hosts > 1 ? "too many Host headers" : "missing required Host header");
    }
    return consumed;
}

Result<MessageParser::BodyProgress> MessageParser::parse_body(std::string_view data, std::span<std::byte> out) {
    BodyProgress progress;
    if (done()) return progress;
    ErrorCode error;
    state_->visit([&](auto& p) {
        p.out = out;
        p.produced = 0;
        progress.consumed = p.put(boost::asio::buffer(data.data(), data.size()), error);
        progress.produced = p.produced;
    });
    if (error && error != beast::http::error::need_more && error != beast::http::error::need_buffer)
        return parse_failure(error);
    return progress;
}

Result<> MessageParser::end_of_stream() {
    if (!started()) return fail(Code::data_loss, "connection closed before a message");
    if (done()) return {};
    ErrorCode error;
    state_->visit([&](auto& p) { p.put_eof(error); });
    if (error) return fail(Code::data_loss, "connection closed inside a message");
    return {};
}

bool MessageParser::head_done() const {
    return state_->visit([](const auto& p) { return p.is_header_done(); });
}
bool MessageParser::done() const {
    return state_->visit([](const auto& p) { return p.is_done(); });
}
bool MessageParser::started() const {
    return state_->visit([](const auto& p) { return p.got_some(); });
}
const MessageHead& MessageParser::head() const {
    return *state_->visit([](const auto& p) { return &p.head; });
}
MessageHead& MessageParser::head() {
    return *state_->visit([](auto& p) { return &p.head; });
}

}  // namespace wherry::http
