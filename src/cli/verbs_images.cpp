// images, rmi, tag, history.
#include <algorithm>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/reference.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option images_options[] = {
    {"all", 'a', {}, "Show all images (default hides intermediate images)"},
    {"digests", 0, {}, "Show digests"},
    {"filter", 'f', "filter", "Filter output based on conditions provided (e.g. dangling=true, reference=web:*)",
     check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"no-trunc", 0, {}, "Don't truncate output"},
    {"quiet", 'q', {}, "Only show image IDs"},
    {"tree", 0, {}, "List multi-platform images as a tree", nullptr, {}, true, "images here have one platform each"},
};
constexpr Option rmi_options[] = {
    {"force", 'f', {}, "Force removal of the image"},
    {"no-prune", 0, {}, "Do not delete untagged parents"},
    {"platform",
     0,
     "strings",
     "Remove only the given platform variant",
     nullptr,
     {},
     true,
     "images here have one platform each"},
};
constexpr Option history_options[] = {
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"human", 'H', {}, "Print sizes and dates in human readable format", nullptr, "true"},
    {"no-trunc", 0, {}, "Don't truncate output"},
    {"platform",
     0,
     "string",
     "Show history for the given platform",
     nullptr,
     {},
     true,
     "images here have one platform each"},
    {"quiet", 'q', {}, "Only show image IDs"},
};
constexpr Listing::Column image_columns[] = {
    {"Containers", "CONTAINERS"},
    {"CreatedAt", "CREATED AT"},
    {"CreatedSince", "CREATED"},
    {"Digest", "DIGEST"},
    {"ID", "IMAGE ID"},
    {"Repository", "REPOSITORY"},
    {"SharedSize", "SHARED SIZE"},
    {"Size", "SIZE"},
    {"Tag", "TAG"},
    {"UniqueSize", "UNIQUE SIZE"},
    {"VirtualSize", "SIZE"},
};
constexpr Listing::Column history_columns[] = {
    {"Comment", "COMMENT"},
    {"CreatedAt", "CREATED AT"},
    {"CreatedBy", "CREATED BY"},
    {"CreatedSince", "CREATED"},
    {"ID", "IMAGE"},
    {"Size", "SIZE"},
};

std::vector<std::string> texts(const json::value* list) {
    std::vector<std::string> out;
    if (list != nullptr && list->is_array())
        for (const json::value& item : list->get_array()) out.push_back(print_text(item));
    return out;
}

void add_image_rows(Listing& listing, const json::value& image, bool full, bool digests) {
    std::string id = text_at(image, "Id");
    WallTime created(std::chrono::seconds(integer_at(image, "Created")));
    json::object base;
    base["ID"] = full ? id : (id.starts_with("sha256:") ? id.substr(7, 12) : id.substr(0, 12));
    base["CreatedAt"] = go_time(created);
    base["CreatedSince"] = human_ago(created, wall_now());
    std::string size = human_size(static_cast<double>(integer_at(image, "Size")));
    base["Size"] = size;
    base["VirtualSize"] = human_size(static_cast<double>(integer_at(image, "Size")), 4);
    auto count = [&](std::string_view name) {
        return value_at(image, name) == nullptr || integer_at(image, name) == -1
                   ? std::string("N/A")
                   : std::to_string(integer_at(image, name));
    };
    base["Containers"] = count("Containers");
    base["SharedSize"] =
        integer_at(image, "SharedSize") <= 0 ? "N/A" : human_size(static_cast<double>(integer_at(image, "SharedSize")));
    base["UniqueSize"] =
        integer_at(image, "SharedSize") <= 0
            ? "N/A"
            : human_size(static_cast<double>(integer_at(image, "Size") - integer_at(image, "SharedSize")));
    auto tags = texts(value_at(image, "RepoTags"));
    auto digest_list = texts(value_at(image, "RepoDigests"));
    std::erase(tags, "<none>:<none>");
    std::erase(digest_list, "<none>@<none>");
    auto add = [&](const std::string& repository, const std::string& tag, const std::string& digest) {
        json::object row = base;
        row["Repository"] = repository;
        row["Tag"] = tag;
        row["Digest"] = digest;
        listing.add(std::move(row));
    };
    auto digest_of = [&](const std::string& repository) -> std::string {
        if (!digests) return "<none>";
        for (const std::string& entry : digest_list)
            if (auto at = entry.find('@'); entry.substr(0, at) == repository) return entry.substr(at + 1);
        return "<none>";
    };
    std::vector<std::string> named;
    for (const std::string& tag : tags) {
        auto colon = tag.rfind(':');
        named.push_back(tag.substr(0, colon));
        add(tag.substr(0, colon), tag.substr(colon + 1), digest_of(tag.substr(0, colon)));
    }
    if (tags.empty() && digest_list.empty()) add("<none>", "<none>", "<none>");
    for (const std::string& entry : digest_list) {
        std::string repository = entry.substr(0, entry.find('@'));
        if (std::ranges::find(named, repository) == named.end() && (digests || tags.empty()))
            add(repository, "<none>", entry.substr(entry.find('@') + 1));
    }
}

Result<int> images(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    json::object more;
    if (!invocation.arguments.empty()) more["reference"] = json::object{{invocation.arguments[0], true}};
    QueryText query;
    query.add_flag("all", options.flag("all"));
    std::string filters = TRY(encode_filters(options.list("filter"), more));
    if (!filters.empty()) query.add("filters", filters);
    json::value answer = TRY(session.get("/images/json" + query.text()));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    std::string format = options.text("format");
    if (format.empty() && !options.flag("quiet")) format = session.configured("imagesFormat");
    bool digests = options.flag("digests") || format.find(".Digest") != std::string::npos;
    Listing listing(image_columns, std::string("{{.Repository}}\t{{.Tag}}\t") +
                                       (options.flag("digests") ? "{{.Digest}}\t" : "") +
                                       "{{.ID}}\t{{.CreatedSince}}\t{{.Size}}");
    for (const json::value& image : answer.get_array())
        add_image_rows(listing, image, options.flag("no-trunc"), digests);
    if (options.flag("quiet") && !options.given("format")) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

Result<int> remove_images(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    query.add_flag("force", options.flag("force")).add_flag("noprune", options.flag("no-prune"));
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto answer = session.remove("/images/" + http::percent_encode_path(name) + query.text());
        if (!answer) {
            session.report(answer.error());
            if (!(options.flag("force") && answer.error().code() == Code::not_found)) code = 1;
            continue;
        }
        if (!answer->is_array()) continue;
        for (const json::value& item : answer->get_array()) {
            if (std::string text = text_at(item, "Untagged"); !text.empty()) session.out("Untagged: " + text + "\n");
            if (std::string text = text_at(item, "Deleted"); !text.empty()) session.out("Deleted: " + text + "\n");
        }
    }
    return code;
}

Result<int> tag(Session& session, const Invocation& invocation) {
    auto target = parse_reference(invocation.arguments[1]);
    if (!target)
        return fail(Code::invalid_argument, "Error parsing reference: \"" + invocation.arguments[1] +
                                                "\" is not a valid repository/tag: " + target.error().describe());
    if (!target->digest.empty())
        return fail(Code::invalid_argument, "refusing to create a tag with a digest reference");
    QueryText query;
    query.add("repo", target->familiar_name()).add("tag", target->tag.empty() ? "latest" : target->tag);
    TRY(session.post("/images/" + http::percent_encode_path(invocation.arguments[0]) + "/tag" + query.text()));
    return 0;
}

Result<int> history(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    json::value answer = TRY(session.get("/images/" + http::percent_encode_path(invocation.arguments[0]) + "/history"));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    bool full = options.flag("no-trunc");
    bool human = options.flag("human", true);
    Listing listing(history_columns, human ? "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
                                           : "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}");
    for (const json::value& layer : answer.get_array()) {
        json::object row;
        std::string id = text_at(layer, "Id");
        row["ID"] = full ? id : (id.starts_with("sha256:") ? id.substr(7, 12) : id);
        WallTime created(std::chrono::seconds(integer_at(layer, "Created")));
        row["CreatedAt"] = format_rfc3339_short(created);
        row["CreatedSince"] = integer_at(layer, "Created") == 0 ? "N/A"
                              : human                           ? human_ago(created, wall_now())
                                                                : format_rfc3339_short(created);
        std::string by = text_at(layer, "CreatedBy");
        std::ranges::replace(by, '\t', ' ');
        row["CreatedBy"] = full ? by : shorten(by, 45);
        row["Size"] = human ? human_size(static_cast<double>(integer_at(layer, "Size")))
                            : std::to_string(integer_at(layer, "Size"));
        row["Comment"] = text_at(layer, "Comment");
        listing.add(std::move(row));
    }
    std::string format = options.text("format");
    if (options.flag("quiet") && format.empty()) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

}  // namespace

void add_image_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"images", "image ls", "image list"},
         .usage = "[OPTIONS] [REPOSITORY[:TAG]]",
         .summary = "List images",
         .example = "wherry images --filter dangling=true -q",
         .options = images_options,
         .maximum = 1,
         .run = images},
        {.names = {"rmi", "image rm", "image remove"},
         .usage = "[OPTIONS] IMAGE [IMAGE...]",
         .summary = "Remove one or more images",
         .example = "wherry rmi web:1",
         .options = rmi_options,
         .minimum = 1,
         .run = remove_images},
        {.names = {"tag", "image tag"},
         .usage = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
         .summary = "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
         .example = "wherry tag web:1 web:latest",
         .minimum = 2,
         .maximum = 2,
         .run = tag},
        {.names = {"history", "image history"},
         .usage = "[OPTIONS] IMAGE",
         .summary = "Show the history of an image",
         .example = "wherry history --no-trunc web:1",
         .options = history_options,
         .minimum = 1,
         .maximum = 1,
         .run = history},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
