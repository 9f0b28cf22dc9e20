// inspect, for every kind of thing.
#include <array>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/session.hpp"
#include "cli/template.hpp"

namespace wherry::cli {

namespace {

constexpr std::string_view format_help = "Format output: 'json', or a Go template";

constexpr Option inspect_options[] = {
    {"format", 'f', "string", format_help},
    {"size", 's', {}, "Display total file sizes if the type is container"},
    {"type", 0, "string", "Only inspect objects of the given type (container, image, network, volume)"},
};
constexpr Option sized_options[] = {
    {"format", 'f', "string", format_help},
    {"size", 's', {}, "Display total file sizes"},
};
constexpr Option plain_options[] = {{"format", 'f', "string", format_help}};
constexpr Option image_options[] = {
    {"format", 'f', "string", format_help},
    {"platform",
     0,
     "string",
     "Inspect a specific platform of the multi-platform image",
     nullptr,
     {},
     true,
     "images here have one platform each"},
};
constexpr Option network_options[] = {
    {"format", 'f', "string", format_help},
    {"verbose", 'v', {}, "Verbose output for diagnostics"},
};

struct Kind {
    std::string_view name;
    std::string_view prefix;  // of the path
    std::string_view suffix;
    std::string_view not_found;  // Docker's words when only this kind was asked for
};
constexpr std::array<Kind, 5> kinds = {{{"container", "/containers/", "/json", "No such container: "},
                                        {"image", "/images/", "/json", "No such image: "},
                                        {"network", "/networks/", "", "No such network: "},
                                        {"volume", "/volumes/", "", "No such volume: "},
                                        {"sandbox", "/wherry/sandboxes/", "", "No such sandbox: "}}};

Result<std::optional<json::value>> look_up(Session& session, const Kind& kind, const std::string& name, bool size) {
    std::string encoded = kind.name == "image" ? http::percent_encode_path(name) : segment(name);
    std::string target = std::string(kind.prefix) + encoded + std::string(kind.suffix);
    if (size && kind.name == "container") target += "?size=1";
    auto response = TRY(session.send("GET", target));
    if (response.status() == 404 || (kind.name == "network" && response.status() == 405)) {
        [[maybe_unused]] auto rest = response.read_all(1U << 20U);
        return std::nullopt;
    }
    if (response.status() >= 400) return std::unexpected(Session::response_error(response));
    return std::optional<json::value>(TRY(Session::read_json(response)));
}

Result<int> inspect_kinds(Session& session, const Invocation& invocation, std::span<const Kind> wanted) {
    const ParsedOptions& options = invocation.options;
    std::string format = options.text("format");
    std::optional<Template> shape;
    if (format == "json")
        shape.emplace(TRY(Template::parse("{{json .}}")));
    else if (!format.empty())
        shape.emplace(TRY(Template::parse(format)));
    std::vector<json::value> found;
    std::vector<std::string> problems;
    for (const std::string& name : invocation.arguments) {
        std::optional<json::value> document;
        std::string problem;
        for (const Kind& kind : wanted) {
            auto answer = look_up(session, kind, name, options.flag("size"));
            if (!answer) {
                if (answer.error().code() == Code::unavailable) return std::unexpected(std::move(answer).error());
                problem = answer.error().describe();
                break;
            }
            if (*answer) {
                document = std::move(**answer);
                break;
            }
        }
        if (document) {
            if (!shape) {
                found.push_back(std::move(*document));
                continue;
            }
            auto text = shape->execute(*document);
            if (text) {
                session.out(*text + "\n");
                continue;
            }
            session.out("\n");
            problem = text.error().describe();
        } else if (problem.empty()) {
            problem = wanted.size() == 1 ? "Error response from daemon: " + std::string(wanted[0].not_found) + name
                                         : "Error: No such object: " + name;
        }
        problems.push_back(problem);
    }
    if (!shape) {
        json::array all;
        for (json::value& document : found) all.push_back(std::move(document));
        session.out(indented_json(json::value(std::move(all)), 4) + "\n");
    }
    for (const std::string& problem : problems) session.error(problem);
    return problems.empty() ? 0 : 1;
}

Result<int> inspect(Session& session, const Invocation& invocation) {
    std::string type = invocation.options.text("type");
    if (type.empty()) {
        if (invocation.options.given("type"))
            return fail(Code::invalid_argument,
                        "type is empty: must be one of \"container\", \"image\", \"network\", \"volume\"");
        return inspect_kinds(session, invocation, kinds);
    }
    for (const Kind& kind : kinds)
        if (kind.name == type) return inspect_kinds(session, invocation, std::span(&kind, 1));
    return fail(Code::invalid_argument,
                "unknown type: \"" + type + "\": must be one of \"container\", \"image\", \"network\", \"volume\"");
}

template <std::size_t N>
Result<int> inspect_one_kind(Session& session, const Invocation& invocation) {
    return inspect_kinds(session, invocation, std::span(kinds).subspan(N, 1));
}

}  // namespace

void add_inspect_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"inspect"},
         .usage = "[OPTIONS] NAME|ID [NAME|ID...]",
         .summary = "Return low-level information on containers, images, networks and volumes",
         .example = "wherry inspect -f '{{.State.Status}} {{.State.ExitCode}}' job",
         .options = inspect_options,
         .minimum = 1,
         .run = inspect},
        {.names = {"container inspect"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Display detailed information on one or more containers",
         .example = "wherry container inspect web",
         .options = sized_options,
         .minimum = 1,
         .run = inspect_one_kind<0>},
        {.names = {"image inspect"},
         .usage = "[OPTIONS] IMAGE [IMAGE...]",
         .summary = "Display detailed information on one or more images",
         .example = "wherry image inspect -f '{{json .Config.Env}}' web:1",
         .options = image_options,
         .minimum = 1,
         .run = inspect_one_kind<1>},
        {.names = {"network inspect"},
         .usage = "[OPTIONS] NETWORK [NETWORK...]",
         .summary = "Display detailed information on one or more networks",
         .example = "wherry network inspect bridge",
         .options = network_options,
         .minimum = 1,
         .run = inspect_one_kind<2>},
        {.names = {"volume inspect"},
         .usage = "[OPTIONS] VOLUME [VOLUME...]",
         .summary = "Display detailed information on one or more volumes",
         .example = "wherry volume inspect -f '{{.Mountpoint}}' data",
         .options = plain_options,
         .minimum = 1,
         .run = inspect_one_kind<3>},
        {.names = {"sandbox inspect"},
         .usage = "[OPTIONS] SANDBOX [SANDBOX...]",
         .summary = "Display detailed information on one or more sandboxes",
         .example = "wherry sandbox inspect -f '{{.Network.IPAddress}}' shop",
         .options = plain_options,
         .minimum = 1,
         .run = inspect_one_kind<4>},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
