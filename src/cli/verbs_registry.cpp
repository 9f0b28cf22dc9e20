// pull, push, login, logout, search, image verify.
#include <termios.h>
#include <unistd.h>

#include <iostream>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/credentials.hpp"
#include "cli/progress.hpp"
#include "cli/reference.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option pull_options[] = {
    {"all-tags", 'a', {}, "Download all tagged images in the repository"},
    {"disable-content-trust", 0, {}, "Skip image verification", nullptr, "true", true},
    {"platform", 0, "string", "Set platform if server is multi-platform capable"},
    {"quiet", 'q', {}, "Suppress verbose output"},
};
constexpr Option push_options[] = {
    {"all-tags", 'a', {}, "Push all tags of an image to the repository"},
    {"disable-content-trust", 0, {}, "Skip image signing", nullptr, "true", true},
    {"platform",
     0,
     "string",
     "Push a platform-specific manifest as a single-platform image",
     nullptr,
     {},
     true,
     "images here have one platform each"},
    {"quiet", 'q', {}, "Suppress verbose output"},
};
constexpr Option login_options[] = {
    {"password", 'p', "string", "Password or Personal Access Token (PAT)"},
    {"password-stdin", 0, {}, "Take the Password or Personal Access Token (PAT) from stdin"},
    {"username", 'u', "string", "Username"},
};
constexpr Option search_options[] = {
    {"filter", 'f', "filter", "Filter output based on conditions provided (e.g. is-official=true, stars=10)",
     check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"limit", 0, "int", "Max number of search results", check_integer},
    {"no-trunc", 0, {}, "Don't truncate output"},
};
constexpr Listing::Column search_columns[] = {
    {"Description", "DESCRIPTION"}, {"IsAutomated", "AUTOMATED"}, {"IsOfficial", "OFFICIAL"}, {"Name", "NAME"},
    {"StarCount", "STARS"},
};

Result<int> pull(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    Reference reference = TRY(parse_reference(invocation.arguments[0]));
    const bool every = options.flag("all-tags");
    if (every && !(reference.tag.empty() && reference.digest.empty()))
        return fail(Code::invalid_argument, "tag can't be used with --all-tags/-a");
    if (!every && reference.tag.empty() && reference.digest.empty()) {
        reference.tag = "latest";
        if (!options.flag("quiet")) session.out("Using default tag: latest\n");
    }
    QueryText query;
    query.add("fromImage", reference.familiar_name());
    if (!every) query.add("tag", reference.digest.empty() ? reference.tag : reference.digest);
    if (options.given("platform")) query.add("platform", options.text("platform"));
    http::ClientRequest request{.method = "POST", .target = "/images/create" + query.text()};
    TRY(add_registry_auth(request, reference));
    session.flush();
    auto response = TRY(session.checked(request));
    TRY(show_progress(session, response, {.quiet = options.flag("quiet")}));
    std::string name = reference.domain + "/" + reference.path;
    if (!every) name += reference.digest.empty() ? ":" + reference.tag : "@" + reference.digest;
    session.out(name + "\n");
    return 0;
}

Result<int> push(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    Reference reference = TRY(parse_reference(invocation.arguments[0]));
    const bool every = options.flag("all-tags");
    if (!reference.digest.empty()) return fail(Code::invalid_argument, "cannot push a digest reference");
    if (every && !reference.tag.empty()) return fail(Code::invalid_argument, "tag can't be used with --all-tags/-a");
    if (!every && reference.tag.empty()) {
        reference.tag = "latest";
        if (!options.flag("quiet")) session.out("Using default tag: latest\n");
    }
    QueryText query;
    if (!every) query.add("tag", reference.tag);
    http::ClientRequest request{
        .method = "POST",
        .target = "/images/" + http::percent_encode_path(reference.familiar_name()) + "/push" + query.text()};
    TRY(add_registry_auth(request, reference));
    // dockerd insists on the header, also when there is nobody to name.
    if (!request.headers.has("X-Registry-Auth"))
        request.headers.set("X-Registry-Auth", registry_auth(server_of(reference.domain), {}));
    session.flush();
    auto response = TRY(session.checked(request));
    TRY(show_progress(session, response, {.quiet = options.flag("quiet")}));
    if (options.flag("quiet"))
        session.out(reference.domain + "/" + reference.path + (every ? "" : ":" + reference.tag) + "\n");
    return 0;
}

// A line of the terminal, without echo where it is a secret.
Result<std::string> ask(Session& session, const std::string& question, bool secret) {
    session.out(question);
    session.flush();
    termios before{};
    const bool quiet = secret && ::tcgetattr(STDIN_FILENO, &before) == 0;
    if (quiet) {
        termios silent = before;
        silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
        ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
    }
    std::string line;
    const bool got = static_cast<bool>(std::getline(std::cin, line));
    if (quiet) {
        ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        session.out("\n");
    }
    if (!got) return fail(Code::cancelled, "no answer was given");
    while (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
}

struct LoginAnswer {
    std::string status;
    std::string identity_token;
};

Result<LoginAnswer> try_login(Session& session, const std::string& server, const Credentials& credentials) {
    json::object body;
    body["username"] = credentials.username;
    if (credentials.identity_token.empty())
        body["password"] = credentials.password;
    else
        body["identitytoken"] = credentials.identity_token;
    body["serveraddress"] = server;
    const json::value document(std::move(body));
    const json::value answer = TRY(session.post("/auth", &document));
    return LoginAnswer{.status = text_at(answer, "Status"), .identity_token = text_at(answer, "IdentityToken")};
}

Result<int> login(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    const std::string given = invocation.arguments.empty() ? "" : invocation.arguments[0];
    std::string host = given;
    if (auto scheme = host.find("://"); scheme != std::string::npos) host.erase(0, scheme + 3);
    host.resize(std::min(host.size(), host.find('/')));
    const std::string server = host.empty() ? std::string(default_server) : server_of(host);
    Credentials credentials;
    credentials.username = options.text("username");
    credentials.password = options.text("password");
    if (options.flag("password-stdin")) {
        if (options.given("password"))
            return fail(Code::invalid_argument, "--password and --password-stdin are mutually exclusive");
        if (credentials.username.empty())
            return fail(Code::invalid_argument, "Must provide --username with --password-stdin");
        credentials.password = TRY(read_to_end(STDIN_FILENO, 1U << 20U));
        while (!credentials.password.empty() &&
               (credentials.password.back() == '\n' || credentials.password.back() == '\r'))
            credentials.password.pop_back();
    } else if (options.given("password")) {
        session.error("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    CredentialStore store = TRY(CredentialStore::open());
    if (!options.given("username") && !options.given("password")) {
        const Credentials known = TRY(store.find(server));
        if (!known.empty()) {
            session.out("Authenticating with existing credentials...\n");
            session.flush();
            if (auto answer = try_login(session, server, known)) {
                session.out(answer->status + "\n");
                return 0;
            }
            session.error("Login did not succeed with the existing credentials.");
        }
    }
    if (credentials.username.empty() || credentials.password.empty()) {
        if (::isatty(STDIN_FILENO) == 0)
            return fail(Code::invalid_argument, "Cannot perform an interactive login from a non TTY device");
        if (credentials.username.empty()) credentials.username = TRY(ask(session, "Username: ", false));
        if (credentials.username.empty()) return fail(Code::invalid_argument, "username is empty");
        if (credentials.password.empty()) credentials.password = TRY(ask(session, "Password: ", true));
        if (credentials.password.empty()) return fail(Code::invalid_argument, "password is empty");
    }
    const LoginAnswer answer = TRY(try_login(session, server, credentials));
    if (!answer.identity_token.empty()) {
        credentials.identity_token = answer.identity_token;
        credentials.password.clear();
    }
    if (TRY(store.keep(server, credentials)) == CredentialStore::Kept::in_file)
        session.error("\nWARNING! Your credentials are stored unencrypted in '" + store.path() +
                      "'.\nConfigure a credential helper (credsStore, credHelpers) to remove this warning.\n");
    session.out(answer.status + "\n");
    return 0;
}

Result<int> logout(Session& session, const Invocation& invocation) {
    std::string host = invocation.arguments.empty() ? "" : invocation.arguments[0];
    if (auto scheme = host.find("://"); scheme != std::string::npos) host.erase(0, scheme + 3);
    host.resize(std::min(host.size(), host.find('/')));
    const std::string server = host.empty() ? std::string(default_server) : server_of(host);
    CredentialStore store = TRY(CredentialStore::open());
    session.out("Removing login credentials for " + server + "\n");
    TRY(store.erase(server), "could not erase credentials");
    return 0;
}

Result<int> search(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    query.add("term", invocation.arguments[0]);
    if (options.given("limit")) query.add("limit", options.text("limit"));
    const std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    http::ClientRequest request{.method = "GET", .target = "/images/search" + query.text()};
    if (auto reference = parse_reference(invocation.arguments[0])) TRY(add_registry_auth(request, *reference));
    auto response = TRY(session.checked(request));
    const json::value answer = TRY(Session::read_json(response));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    Listing listing(search_columns, "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}");
    for (const json::value& hit : answer.get_array()) {
        json::object row;
        row["Name"] = text_at(hit, "name");
        std::string description = text_at(hit, "description");
        std::ranges::replace(description, '\n', ' ');
        row["Description"] = options.flag("no-trunc") ? description : shorten(description, 45);
        row["StarCount"] = std::to_string(integer_at(hit, "star_count"));
        row["IsOfficial"] = flag_at(hit, "is_official") ? "[OK]" : "";
        row["IsAutomated"] = flag_at(hit, "is_automated") ? "[OK]" : "";
        listing.add(std::move(row));
    }
    session.out(TRY(listing.render(options.text("format"))));
    return 0;
}

Result<int> verify(Session& session, const Invocation& invocation) {
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto answer = session.get("/wherry/images/" + http::percent_encode_path(name) + "/verify");
        if (!answer) {
            session.report(answer.error());
            code = 1;
        } else if (flag_at(*answer, "Intact")) {
            session.out(name + ": intact\n");
        } else {
            session.error(name + ": " + text_at(*answer, "Problem"));
            code = 1;
        }
    }
    return code;
}

}  // namespace

void add_registry_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"pull", "image pull"},
         .usage = "[OPTIONS] NAME[:TAG|@DIGEST]",
         .summary = "Download an image from a registry",
         .example = "wherry pull busybox",
         .options = pull_options,
         .minimum = 1,
         .maximum = 1,
         .run = pull},
        {.names = {"push", "image push"},
         .usage = "[OPTIONS] NAME[:TAG]",
         .summary = "Upload an image to a registry",
         .example = "wherry push registry.example:5000/web:1",
         .options = push_options,
         .minimum = 1,
         .maximum = 1,
         .run = push},
        {.names = {"login"},
         .usage = "[OPTIONS] [SERVER]",
         .summary = "Authenticate to a registry",
         .example = "wherry login --username me --password-stdin registry.example:5000 <password.txt",
         .options = login_options,
         .maximum = 1,
         .run = login},
        {.names = {"logout"},
         .usage = "[SERVER]",
         .summary = "Log out from a registry",
         .example = "wherry logout registry.example:5000",
         .maximum = 1,
         .run = logout},
        {.names = {"search"},
         .usage = "[OPTIONS] TERM",
         .summary = "Search for images in a registry",
         .example = "wherry search registry.example:5000/web",
         .options = search_options,
         .minimum = 1,
         .maximum = 1,
         .run = search},
        {.names = {"image verify"},
         .usage = "IMAGE [IMAGE...]",
         .summary = "Read images' files again and tell whether anything was changed on disk",
         .example = "wherry image verify web:1",
         .minimum = 1,
         .run = verify},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
