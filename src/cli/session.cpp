#include "cli/session.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/fd.hpp"
#include "base/json.hpp"

namespace wherry::cli {

namespace {

Code code_of_status(unsigned status) {
    switch (status) {
        case 400:
            return Code::invalid_argument;
        case 401:
            return Code::unauthenticated;
        case 403:
            return Code::permission_denied;
        case 404:
            return Code::not_found;
        case 409:
            return Code::conflict;
        case 501:
            return Code::unimplemented;
        case 503:
            return Code::unavailable;
        default:
            return Code::internal;
    }
}

}  // namespace

Session::Session(std::string program, Connection connection)
    : program_(std::move(program)), connection_(std::move(connection)) {}

Result<http::Client*> Session::client() {
    if (!client_) {
        auto endpoint = http::parse_endpoint(connection_.host, connection_.tls);
        if (!endpoint)
            return fail(Code::invalid_argument,
                        "unable to resolve the daemon's address: invalid bind address format: " + connection_.host);
        client_ = std::make_unique<http::Client>(std::move(*endpoint));
    }
    return client_.get();
}

Result<http::ClientResponse> Session::send(const http::ClientRequest& request) {
    http::Client* http_client = TRY(client());
    auto response = http_client->send(request);
    if (response) return response;
    const Error& problem = response.error();
    if (problem.code() != Code::unavailable && problem.os_errno() != ENOENT && problem.os_errno() != ECONNREFUSED &&
        problem.os_errno() != EACCES)
        return response;
    if (problem.os_errno() == EACCES || problem.os_errno() == EPERM)
        return fail(Code::permission_denied, "permission denied while trying to connect to the daemon at " +
                                                 connection_.host + " (are you root, or in the socket's group?)");
    std::string text = "Cannot connect to the wherry daemon at " + connection_.host + ". Is wherryd running?";
    if (problem.os_errno() != ENOENT && problem.os_errno() != ECONNREFUSED) text += " (" + problem.describe() + ")";
    return fail(Code::unavailable, text, problem.os_errno());
}

Result<http::ClientResponse> Session::send(std::string_view method, std::string target) {
    return send({.method = std::string(method), .target = std::move(target)});
}

Error Session::response_error(http::ClientResponse& response) {
    unsigned status = response.status();
    auto body = response.read_all(1U << 20U);
    std::string message;
    if (body) {
        if (auto document = parse_json_object(*body)) message = text_at(*document, "message");
        if (message.empty()) message = *body;
        while (!message.empty() && (message.back() == '\n' || message.back() == '\r')) message.pop_back();
    }
    if (message.empty()) message = "status " + std::to_string(status);
    return Error(code_of_status(status), "Error response from daemon: " + message);
}

Result<http::ClientResponse> Session::checked(const http::ClientRequest& request) {
    auto response = TRY(send(request));
    if (response.status() >= 400) return std::unexpected(response_error(response));
    return response;
}

Result<json::value> Session::read_json(http::ClientResponse& response) {
    std::string body = TRY(response.read_all(512U << 20U));
    if (body.empty()) return json::value();
    return TRY(parse_json(body), "the daemon's answer");
}

Result<json::value> Session::get(std::string target) {
    auto response = TRY(checked({.method = "GET", .target = std::move(target)}));
    return read_json(response);
}

Result<json::value> Session::post(std::string target, const json::value* body) {
    http::ClientRequest request{.method = "POST", .target = std::move(target)};
    if (body != nullptr) {
        request.body = to_json(*body);
        request.content_type = "application/json";
    }
    auto response = TRY(checked(request));
    return read_json(response);
}

Result<json::value> Session::remove(std::string target) {
    auto response = TRY(checked({.method = "DELETE", .target = std::move(target)}));
    return read_json(response);
}

void Session::out(std::string_view text) {
    output_ += text;
    if (output_.size() > 1U << 16U) flush();
}

void Session::flush() {
    if (output_.empty()) return;
    [[maybe_unused]] auto written = write_all(STDOUT_FILENO, output_);  // a closed pipe ends us by SIGPIPE
    output_.clear();
}

void Session::error(std::string_view text) {
    flush();
    std::string line(text);
    line += '\n';
    [[maybe_unused]] auto written = write_all(STDERR_FILENO, line);
}

std::string Session::configured(std::string_view key) {
    if (!configuration_) {
        configuration_.emplace();
        std::string folder;
        if (const char* chosen = std::getenv("DOCKER_CONFIG"))
            folder = chosen;
        else if (const char* home = std::getenv("HOME"))
            folder = std::string(home) + "/.docker";
        if (!folder.empty())
            if (auto content = read_file(folder + "/config.json", 4U << 20U))
                if (auto document = parse_json_object(*content)) configuration_ = std::move(*document);
    }
    const json::value* value = configuration_->if_contains(key);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

bool Session::stdout_is_terminal() const {
    return ::isatty(STDOUT_FILENO) == 1;
}
bool Session::stderr_is_terminal() const {
    return ::isatty(STDERR_FILENO) == 1;
}

bool Session::colour() const {
    const char* no_colour = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    return stdout_is_terminal() && (no_colour == nullptr || *no_colour == '\0') && terminal != nullptr &&
           std::string_view(terminal) != "dumb";
}

std::string segment(std::string_view text) {
    return http::percent_encode(text);
}

QueryText& QueryText::add(std::string_view name, std::string_view value) {
    text_ += text_.empty() ? '?' : '&';
    text_ += http::percent_encode(name);
    text_ += '=';
    text_ += http::percent_encode(value);
    return *this;
}

QueryText& QueryText::add_flag(std::string_view name, bool value) {
    return value ? add(name, "1") : *this;
}

Result<> check_filter(std::string_view value) {
    if (value.find('=') == std::string_view::npos)
        return fail(Code::invalid_argument, "bad format of filter (expected name=value)");
    return {};
}

Result<std::string> encode_filters(const std::vector<std::string>& filters, const json::object& more) {
    json::object all = more;
    for (const std::string& filter : filters) {
        auto equals = filter.find('=');
        std::string name = filter.substr(0, equals);
        for (char& c : name)
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        std::string_view value = std::string_view(filter).substr(equals + 1);
        auto trim = [](std::string_view text) {
            while (text.starts_with(' ')) text.remove_prefix(1);
            while (text.ends_with(' ')) text.remove_suffix(1);
            return text;
        };
        json::value& values = all[trim(name)];
        if (!values.is_object()) values.emplace_object();
        values.get_object()[trim(value)] = true;
    }
    return all.empty() ? std::string() : to_json(all);
}

const json::value* value_at(const json::value& value, std::string_view path) {
    const json::value* at = &value;
    while (!path.empty()) {
        auto dot = path.find('.');
        if (!at->is_object()) return nullptr;
        at = at->get_object().if_contains(path.substr(0, dot));
        if (at == nullptr) return nullptr;
        path.remove_prefix(dot == std::string_view::npos ? path.size() : dot + 1);
    }
    return at;
}

std::string text_at(const json::value& value, std::string_view path) {
    const json::value* found = value_at(value, path);
    return found != nullptr && found->is_string() ? std::string(found->get_string()) : std::string();
}

std::int64_t integer_at(const json::value& value, std::string_view path) {
    const json::value* found = value_at(value, path);
    if (found == nullptr) return 0;
    if (found->is_int64()) return found->get_int64();
    if (found->is_uint64()) return static_cast<std::int64_t>(found->get_uint64());
    return found->is_double() ? static_cast<std::int64_t>(found->get_double()) : 0;
}

bool flag_at(const json::value& value, std::string_view path) {
    const json::value* found = value_at(value, path);
    return found != nullptr && found->is_bool() && found->get_bool();
}

}  // namespace wherry::cli
