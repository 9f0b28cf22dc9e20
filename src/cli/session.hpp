// One run of the command: where the daemon is, requests to it, and what is written where.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "http/client.hpp"

namespace wherry::cli {

// What precedes the verb, with the environment taken into account.
struct Connection {
    std::string host;  // "unix:///run/wherry/wherry.sock"
    std::optional<http::ClientTls> tls;
};

class Session {
  public:
    Session(std::string program, Connection connection);

    const std::string& program() const { return program_; }  // "wherry"
    const std::string& host() const { return connection_.host; }
    bool encrypted() const { return connection_.tls.has_value() || connection_.host.starts_with("https://"); }
    // A session of its own with the same daemon, for another thread.
    Session sibling() const { return {program_, connection_}; }

    // One request. A transport failure says that the daemon can't be reached; the status is the caller's business.
    Result<http::ClientResponse> send(const http::ClientRequest& request);
    Result<http::ClientResponse> send(std::string_view method, std::string target);
    // The same, and a status of 400 and more is the error "Error response from daemon: …" with a code that tells
    // 404 (not_found), 409 (conflict), 501 (unimplemented), … apart.
    Result<http::ClientResponse> checked(const http::ClientRequest& request);
    // GET, POST, DELETE with JSON; a missing body is null.
    Result<boost::json::value> get(std::string target);
    Result<boost::json::value> post(std::string target, const boost::json::value* body = nullptr);
    Result<boost::json::value> remove(std::string target);
    static Result<boost::json::value> read_json(http::ClientResponse& response);
    // The error of a response whose status is 400 or more.
    static Error response_error(http::ClientResponse& response);

    // Buffered, written at the end or by flush().
    void out(std::string_view text);
    void flush();
    void error(std::string_view text);  // a line on stderr, at once
    // An error about one of several things: "Error response from daemon: …" as a line on stderr.
    void report(const Error& problem) { error(problem.describe()); }

    // A member of ~/.docker/config.json ($DOCKER_CONFIG); empty when there is none.
    std::string configured(std::string_view key);

    bool stdout_is_terminal() const;
    bool stderr_is_terminal() const;
    bool colour() const;  // stdout is a terminal, NO_COLOR is not set and TERM is not dumb

  private:
    Result<http::Client*> client();

    std::string program_;
    Connection connection_;
    std::unique_ptr<http::Client> client_;
    std::string output_;
    std::optional<boost::json::object> configuration_;
};

// One path segment, percent-encoded.
std::string segment(std::string_view text);
// "?a=b&c=d" of the pairs, encoded; empty values are kept.
class QueryText {
  public:
    QueryText& add(std::string_view name, std::string_view value);
    QueryText& add_flag(std::string_view name, bool value);  // "1" when true, nothing otherwise
    std::string text() const { return text_; }               // with its "?"; empty when nothing was added

  private:
    std::string text_;
};

// Is it "name=value"? For the tables of options.
Result<> check_filter(std::string_view value);
// --filter values ("name=x", repeated) as the API's JSON; errors in Docker's words.
Result<std::string> encode_filters(const std::vector<std::string>& filters, const boost::json::object& more = {});

// Typed looks into answers; a wrong type reads as nothing, since tables must not fail for one odd field.
std::string text_at(const boost::json::value& value, std::string_view path);
std::int64_t integer_at(const boost::json::value& value, std::string_view path);
bool flag_at(const boost::json::value& value, std::string_view path);
const boost::json::value* value_at(const boost::json::value& value, std::string_view path);  // "State.Status"

}  // namespace wherry::cli
