#include "cli/credentials.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"

namespace wherry::cli {

namespace {

constexpr std::size_t largest_file = 4U << 20U;
constexpr std::size_t largest_answer = 1U << 20U;
constexpr std::string_view token_user = "<token>";

std::string text_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

const json::object* object_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_object() ? &value->get_object() : nullptr;
}

// "https://host/v1/" -> "host": what older entries are called.
std::string_view host_of(std::string_view server) {
    if (auto scheme = server.find("://"); scheme != std::string_view::npos) server.remove_prefix(scheme + 3);
    return server.substr(0, server.find('/'));
}

// Runs a helper's verb. Its standard error is ours.
Result<std::string> ask_helper(const std::string& name, const char* verb, const std::string& input) {
    const bool plain = !name.empty() && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
               c == '.';
    });
    if (!plain) return fail(Code::invalid_argument, "\"" + name + "\" is no name of a credential helper");
    std::string program = "docker-credential-" + name;
    Pipe question = TRY(make_pipe());
    Pipe answer = TRY(make_pipe());
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, question.read.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, answer.write.get(), STDOUT_FILENO);
    std::string argument = verb;
    std::array<char*, 3> arguments{program.data(), argument.data(), nullptr};
    pid_t pid = -1;
    const int error = ::posix_spawnp(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return fail_errno(error, "credential helper " + program);
    question.read.reset();
    answer.write.reset();
    // A helper that does not read its question is no reason to be killed by SIGPIPE.
    auto before = ::signal(SIGPIPE, SIG_IGN);
    [[maybe_unused]] auto written = write_all(question.write.get(), input);
    ::signal(SIGPIPE, before);
    question.write.reset();
    auto text = read_to_end(answer.read.get(), largest_answer);
    answer.read.reset();
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!text) return text;
    while (!text->empty() && (text->back() == '\n' || text->back() == '\r')) text->pop_back();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
    if (text->contains("credentials not found")) return fail(Code::not_found, *text);
    return fail(Code::internal, program + " " + verb + ": " + (text->empty() ? "it failed" : *text));
}

Result<Credentials> credentials_in(const json::object& entry) {
    Credentials found;
    found.username = text_of(entry, "username");
    found.password = text_of(entry, "password");
    found.identity_token = text_of(entry, "identitytoken");
    found.registry_token = text_of(entry, "registrytoken");
    if (const std::string packed = text_of(entry, "auth"); !packed.empty()) {
        const std::string pair = TRY(base64_decode(packed), "auth");
        const std::size_t colon = pair.find(':');
        if (colon == std::string::npos || colon == 0) return fail(Code::invalid_argument, "invalid auth configuration");
        found.username = pair.substr(0, colon);
        found.password = pair.substr(colon + 1);
        while (!found.password.empty() && found.password.back() == '\0') found.password.pop_back();
    }
    return found;
}

}  // namespace

std::string server_of(std::string_view domain) {
    return domain == "docker.io" || domain == "index.docker.io" ? std::string(default_server) : std::string(domain);
}

Result<CredentialStore> CredentialStore::open() {
    std::string folder;
    if (const char* chosen = std::getenv("DOCKER_CONFIG"))
        folder = chosen;
    else if (const char* home = std::getenv("HOME"))
        folder = std::string(home) + "/.docker";
    std::string path = folder + "/config.json";
    auto text = read_file(path, largest_file);
    if (!text && text.error().code() != Code::not_found) return std::unexpected(std::move(text).error());
    json::object content;
    if (text && !text->empty()) content = TRY(parse_json_object(*text), path);
    return CredentialStore(std::move(path), std::move(content));
}

std::string CredentialStore::helper_for(const std::string& server) const {
    if (const json::object* helpers = object_of(content_, "credHelpers"))
        if (std::string name = text_of(*helpers, server); !name.empty()) return name;
    return text_of(content_, "credsStore");
}

Result<Credentials> CredentialStore::find(const std::string& server) const {
    if (const std::string helper = helper_for(server); !helper.empty()) {
        auto answer = ask_helper(helper, "get", server);
        if (!answer && answer.error().code() == Code::not_found && answer.error().os_errno() == 0) return Credentials();
        if (!answer) return std::unexpected(std::move(answer).error().context("error getting credentials"));
        const json::object object = TRY(parse_json_object(*answer), "docker-credential-" + helper);
        Credentials found;
        found.username = text_of(object, "Username");
        found.password = text_of(object, "Secret");
        if (found.username == token_user) {
            found.identity_token = std::exchange(found.password, {});
            found.username.clear();
        }
        return found;
    }
    const json::object* auths = object_of(content_, "auths");
    if (auths == nullptr) return Credentials();
    if (const json::object* entry = object_of(*auths, server))
        return TRY(credentials_in(*entry), "credentials of " + server);
    for (const auto& member : *auths)
        if (member.value().is_object() && host_of(member.key()) == host_of(server))
            return TRY(credentials_in(member.value().get_object()), "credentials of " + server);
    return Credentials();
}

Result<> CredentialStore::write() const {
    const std::size_t slash = path_.rfind('/');
    TRY(make_directories(path_.substr(0, slash), 0700));
    // The file a link leads to keeps its place.
    std::string target = path_;
    if (char* real = ::realpath(path_.c_str(), nullptr)) {
        target = real;
        std::free(real);
    }
    return write_file_atomic(target, to_json(json::value(content_)) + "\n", 0600, Durability::data);
}

Result<CredentialStore::Kept> CredentialStore::keep(const std::string& server, const Credentials& credentials) {
    json::value& auths = content_["auths"];
    if (!auths.is_object()) auths.emplace_object();
    json::object entry;
    const std::string helper = helper_for(server);
    if (!helper.empty()) {
        json::object question;
        question["ServerURL"] = server;
        question["Username"] = credentials.identity_token.empty() ? credentials.username : std::string(token_user);
        question["Secret"] = credentials.identity_token.empty() ? credentials.password : credentials.identity_token;
        TRY(ask_helper(helper, "store", to_json(json::value(question))), "error saving credentials");
    } else {
        entry["auth"] = base64_encode(credentials.username + ":" +
                                      (credentials.identity_token.empty() ? credentials.password : std::string()));
        if (!credentials.identity_token.empty()) entry["identitytoken"] = credentials.identity_token;
    }
    auths.get_object()[server] = std::move(entry);
    TRY(write(), "error saving credentials");
    return helper.empty() ? Kept::in_file : Kept::by_helper;
}

Result<> CredentialStore::erase(const std::string& server) {
    if (const std::string helper = helper_for(server); !helper.empty()) {
        auto erased = ask_helper(helper, "erase", server);
        if (!erased && erased.error().code() != Code::not_found) return std::unexpected(std::move(erased).error());
    }
    json::value* auths = content_.if_contains("auths");
    if (auths == nullptr || !auths->is_object()) return {};
    bool changed = false;
    for (auto& [key, value] : json::object(auths->get_object())) {
        if (std::string_view(key) != server && host_of(key) != host_of(server)) continue;
        auths->get_object().erase(key);
        changed = true;
    }
    return changed ? write() : Result<>();
}

std::string registry_auth(const std::string& server, const Credentials& credentials) {
    json::object object;
    if (!credentials.username.empty()) object["username"] = credentials.username;
    if (!credentials.password.empty()) object["password"] = credentials.password;
    if (!credentials.identity_token.empty()) object["identitytoken"] = credentials.identity_token;
    if (!credentials.registry_token.empty()) object["registrytoken"] = credentials.registry_token;
    object["serveraddress"] = server;
    std::string text = base64_encode(to_json(json::value(object)));
    std::ranges::replace(text, '+', '-');
    std::ranges::replace(text, '/', '_');
    return text;
}

Result<> add_registry_auth(http::ClientRequest& request, const Reference& reference) {
    CredentialStore store = TRY(CredentialStore::open());
    const std::string server = server_of(reference.domain);
    const Credentials credentials = TRY(store.find(server));
    if (!credentials.empty()) request.headers.set("X-Registry-Auth", registry_auth(server, credentials));
    return {};
}

}  // namespace wherry::cli
