#include "cli/program.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/fd.hpp"
#include "cli/command.hpp"
#include "cli/help.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

namespace {

constexpr Option global_table[] = {
    {"config", 0, "string", "Location of client config files"},
    {"context", 'c', "string", "Accepted for Docker's sake: \"default\" only"},
    {"debug", 'D', {}, "Enable debug mode"},
    {"host", 'H', "list", "Daemon socket to connect to (unix:///path, tcp://host:port)"},
    {"log-level", 'l', "string", "Accepted for Docker's sake", nullptr, {}, true},
    {"tls", 0, {}, "Use TLS; implied by --tlsverify"},
    {"tlscacert", 0, "string", "Trust certs signed only by this CA"},
    {"tlscert", 0, "string", "Path to TLS certificate file"},
    {"tlskey", 0, "string", "Path to TLS key file"},
    {"tlsverify", 0, {}, "Use TLS and verify the remote"},
    {"version", 'v', {}, "Print version information and quit"},
};

constexpr Group group_table[] = {
    {"container", "Manage containers"},
    {"dns", "Ask name servers, trace paths, measure distances"},
    {"image", "Manage images"},
    {"network", "Manage networks"},
    {"sandbox", "Manage sandboxes that containers share"},
    {"system", "Manage the daemon"},
    {"volume", "Manage volumes"},
};

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

Result<Connection> make_connection(const ParsedOptions& options) {
    Connection connection;
    connection.host = options.text("host");
    if (connection.host.empty()) connection.host = environment("WHERRY_HOST");
    if (connection.host.empty()) connection.host = environment("DOCKER_HOST");
    if (connection.host.empty()) connection.host = "unix:///run/wherry/wherry.sock";
    if (connection.host.starts_with('/')) connection.host = "unix://" + connection.host;
    if (connection.host.find("://") == std::string::npos) connection.host = "tcp://" + connection.host;
    std::string context = options.text("context");
    if (!context.empty() && context != "default")
        return fail(Code::not_found,
                    "context \"" + context + "\": contexts are not supported; use --host or DOCKER_HOST");
    bool verify =
        options.flag("tlsverify") || (!options.given("tlsverify") && !environment("DOCKER_TLS_VERIFY").empty());
    if (verify || options.flag("tls")) {
        std::string folder = environment("DOCKER_CERT_PATH");
        if (folder.empty()) folder = environment("DOCKER_CONFIG");
        if (folder.empty()) folder = environment("HOME") + "/.docker";
        http::ClientTls tls;
        auto file = [&](std::string_view option, const char* name) {
            if (options.given(option)) return options.text(option);
            std::string path = folder + "/" + name;
            return path_exists(path) ? path : std::string();
        };
        tls.certificate_authority = file("tlscacert", "ca.pem");
        tls.certificate = file("tlscert", "cert.pem");
        tls.key = file("tlskey", "key.pem");
        tls.verify_server = verify;
        connection.tls = std::move(tls);
    }
    return connection;
}

void print_error(const std::string& text) {
    [[maybe_unused]] auto written = write_all(STDERR_FILENO, text);
}

// "requires at least 1 argument", …: Docker's words for each shape of count.
std::string count_problem(const Command& command, const std::string& name, std::size_t count) {
    auto arguments = [](int n) { return std::to_string(n) + (n == 1 ? " argument" : " arguments"); };
    int given = static_cast<int>(count);
    bool low = given < command.minimum;
    bool high = command.maximum != any_number && given > command.maximum;
    if (!low && !high) return {};
    std::string text = "'" + name + "' ";
    if (command.maximum == 0) return text + "accepts no arguments";
    if (command.minimum == command.maximum) return text + "requires " + arguments(command.minimum);
    if (command.minimum > 0 && command.maximum != any_number)
        return text + "requires at least " + std::to_string(command.minimum) + " and at most " +
               arguments(command.maximum);
    if (low) return text + "requires at least " + arguments(command.minimum);
    return text + "requires at most " + arguments(command.maximum);
}

// The verb at the front of `words`, and how many words name it.
struct Found {
    const Command* command = nullptr;
    std::size_t words = 0;
};

Found find_verb(std::span<const std::string> words) {
    if (find_group(words[0]) != nullptr) {
        if (words.size() < 2) return {};
        const Command* command = find_command(words[0] + " " + words[1]);
        return {command, 2};
    }
    return {find_command(words[0]), 1};
}

int unknown_command(const std::string& program, std::span<const std::string> words) {
    std::string path = words[0];
    bool in_group = find_group(words[0]) != nullptr;
    if (in_group) path += " " + words[1];
    std::string text = program + ": unknown command: " + program + " " + path + "\n";
    std::vector<std::string_view> names;
    for (const Command* command : commands())
        for (std::string_view name : command->names)
            if (!command->hidden && (name.find(' ') != std::string_view::npos) == in_group) names.push_back(name);
    for (const Group& group : groups()) names.push_back(group.name);
    std::string near = closest(path, names);
    if (!near.empty()) text += "Did you mean '" + program + " " + near + "'?\n";
    std::string help = in_group ? words[0] + " --help" : "--help";
    print_error(text + "\nRun '" + program + " " + help + "' for more information\n");
    return 1;
}

int run_verb(const std::string& program, const Connection& connection, const Command& command, const std::string& path,
             std::span<const std::string> rest) {
    std::string name = program + " " + path;
    auto usage = [&](const std::string& first, const char* verb) {
        print_error(first + "\n\nUsage:  " + name + (command.usage.empty() ? "" : " ") + std::string(command.usage) +
                    "\n\n" + verb + " '" + name + " --help' for more information\n");
    };
    auto parsed = parse_options(command.options, rest, command.stop_at_argument);
    if (!parsed) {
        usage(parsed.error().describe(), "Run");
        return 125;
    }
    Session session(program, connection);
    if (parsed->help) {
        session.out(command_help(program, path, command));
        session.flush();
        return 0;
    }
    if (std::string problem = count_problem(command, name, parsed->arguments.size()); !problem.empty()) {
        usage(program + ": " + problem, "See");
        return 1;
    }
    Invocation invocation{path, std::move(parsed->options), std::move(parsed->arguments)};
    auto code = command.run(session, invocation);
    session.flush();
    if (code) return *code;
    std::string text = code.error().describe();
    if (!command.quiet_failure_hint)
        text = program + ": " + text + "\n\nRun '" + name + " --help' for more information";
    print_error(text + "\n");
    return command.failure;
}

}  // namespace

std::span<const Option> global_options() {
    return global_table;
}
std::span<const Group> groups() {
    return group_table;
}

const Group* find_group(std::string_view name) {
    for (const Group& group : group_table)
        if (group.name == name) return &group;
    return nullptr;
}

const std::vector<const Command*>& commands() {
    static const std::vector<const Command*> table = [] {
        std::vector<const Command*> all;
        for (auto add : {
                 add_container_list_verbs, add_life_cycle_verbs, add_run_verbs,
                 add_exec_verbs,           add_log_verbs,        add_copy_verbs,
                 add_change_verbs,         add_image_verbs,      add_registry_verbs,
                 add_archive_verbs,        add_inspect_verbs,    add_system_verbs,
                 add_event_verbs,          add_stats_verbs,      add_volume_verbs,
                 add_network_verbs,        add_prune_verbs,      add_why_verbs,
                 add_sandbox_verbs,        add_undelete_verbs,   add_dns_lookup_verbs,
                 add_dns_path_verbs,       add_help_verbs,       add_dns_dispatch_verbs,
                 add_adopt_verbs,
             })
            add(all);
        std::ranges::sort(all, {}, [](const Command* command) { return command->names.front(); });
        return all;
    }();
    return table;
}

const Command* find_command(std::string_view path) {
    for (const Command* command : commands())
        if (std::ranges::find(command->names, path) != command->names.end()) return command;
    return nullptr;
}

int run_program(const std::vector<std::string>& words) {
    const std::string program = "wherry";
    std::span<const std::string> rest(words);
    rest = rest.subspan(std::min<std::size_t>(1, rest.size()));
    auto parsed = parse_options(global_table, rest, /*stop_at_argument=*/true);
    if (!parsed) {
        print_error(parsed.error().describe() + "\n\nUsage:  " + program + " [OPTIONS] COMMAND [ARG...]\n\nRun '" +
                    program + " --help' for more information\n");
        return 125;
    }
    Session plain(program, {});
    if (parsed->options.flag("version")) {
        plain.out("wherry version " WHERRY_VERSION "\n");
        plain.flush();
        return 0;
    }
    const std::vector<std::string>& verb = parsed->arguments;
    if (verb.empty()) {
        plain.out(parsed->help ? program_help(program) : short_help(program));
        plain.flush();
        return 0;
    }
    if (parsed->options.given("config")) ::setenv("DOCKER_CONFIG", parsed->options.text("config").c_str(), 1);
    auto connection = make_connection(parsed->options);
    if (!connection) {
        print_error(connection.error().describe() + "\n");
        return 1;
    }
    Found found = find_verb(verb);
    if (found.command != nullptr) {
        std::string path = verb[0];
        if (found.words == 2) path += " " + verb[1];
        return run_verb(program, *connection, *found.command, path, std::span(verb).subspan(found.words));
    }
    if (const Group* group = find_group(verb[0]);
        group != nullptr && (verb.size() == 1 || verb[1] == "--help" || verb[1] == "-h")) {
        plain.out(group_help(program, *group));
        plain.flush();
        return 0;
    }
    return unknown_command(program, verb);
}

}  // namespace wherry::cli
