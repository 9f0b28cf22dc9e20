// undelete: containers that were removed a short while ago.
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/each.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option undelete_options[] = {
    {"format", 0, "string", "Format of the list: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"list", 'l', {}, "List what can be restored (as without a name)"},
    {"name", 0, "string", "Restore under this name"},
    {"no-trunc", 0, {}, "Don't truncate output"},
    {"quiet", 'q', {}, "Only display container IDs"},
};
constexpr Listing::Column removed_columns[] = {
    {"Expires", "EXPIRES"}, {"ID", "CONTAINER ID"}, {"Image", "IMAGE"},
    {"Name", "NAME"},       {"Removed", "REMOVED"}, {"Size", "SIZE"},
};

Result<int> list_removed(Session& session, const ParsedOptions& options) {
    json::value answer = TRY(session.get("/wherry/removed?size=1"));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    Listing listing(removed_columns, "{{.ID}}\t{{.Image}}\t{{.Removed}}\t{{.Expires}}\t{{.Size}}\t{{.Name}}");
    for (const json::value& container : answer.get_array()) {
        std::string id = text_at(container, "Id");
        json::object row{{"ID", options.flag("no-trunc") ? id : id.substr(0, 12)},
                         {"Name", text_at(container, "Name")},
                         {"Image", text_at(container, "Image")},
                         {"Size", human_size(static_cast<double>(integer_at(container, "SizeRw")))}};
        WallTime now = wall_now();
        if (auto removed = parse_rfc3339(text_at(container, "Removed"))) row["Removed"] = human_ago(*removed, now);
        if (auto expires = parse_rfc3339(text_at(container, "Expires")))
            row["Expires"] =
                "in " + human_duration(std::chrono::duration_cast<std::chrono::seconds>(*expires - now).count());
        listing.add(std::move(row));
    }
    std::string format = options.text("format");
    if (options.flag("quiet") && format.empty()) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

Result<int> undelete(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    if (invocation.arguments.empty() || options.flag("list")) return list_removed(session, options);
    if (options.given("name") && invocation.arguments.size() > 1)
        return fail(Code::invalid_argument, "conflicting options: one name and several containers");
    QueryText query;
    if (options.given("name")) query.add("name", options.text("name"));
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return session.post("/wherry/removed/" + segment(name) + "/restore" + query.text());
    });
}

}  // namespace

void add_undelete_verbs(std::vector<const Command*>& all) {
    static const Command command{
        .names = {"undelete", "container undelete"},
        .usage = "[OPTIONS] [REMOVED...]",
        .summary = "Bring back removed containers, or list those that can be",
        .example = "wherry undelete\nwherry undelete web",
        .options = undelete_options,
        .run = undelete,
        .details =
            "A removed container can be had back for ten minutes (wherryd --undelete-period), with its files, log and "
            "settings,\nstopped. Not those that removed themselves (--rm) or were pruned."};
    all.push_back(&command);
}

}  // namespace wherry::cli
