// volume ls, create, rm.
#include <algorithm>

#include "base/json.hpp"
#include "cli/bodies.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"

namespace wherry::cli {

namespace {

constexpr std::string_view no_cluster = "cluster volumes are not supported";

constexpr Option volume_create_options[] = {
    {"availability", 0, "string", "Cluster Volume availability", nullptr, {}, true, no_cluster},
    {"driver", 'd', "string", "Specify volume driver name", nullptr, "\"local\""},
    {"group", 0, "string", "Cluster Volume group", nullptr, {}, true, no_cluster},
    {"label", 0, "list", "Set metadata for a volume"},
    {"name", 0, "string", "Specify volume name", nullptr, {}, true},
    {"opt", 'o', "map", "Set driver specific options"},
};
constexpr Option volume_ls_options[] = {
    {"cluster", 0, {}, "Display only cluster volumes", nullptr, {}, true, no_cluster},
    {"filter", 'f', "filter", "Provide filter values (e.g. \"dangling=true\")", check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"quiet", 'q', {}, "Only display volume names"},
};
constexpr Option volume_rm_options[] = {{"force", 'f', {}, "Force the removal of one or more volumes"}};
constexpr Listing::Column volume_columns[] = {
    {"Availability", "AVAILABILITY"},
    {"Driver", "DRIVER"},
    {"Group", "GROUP"},
    {"Labels", "LABELS"},
    {"Links", "LINKS"},
    {"Mountpoint", "MOUNTPOINT"},
    {"Name", "VOLUME NAME"},
    {"Scope", "SCOPE"},
    {"Size", "SIZE"},
    {"Status", "STATUS"},
};

Result<int> create_volume(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    std::string name = options.text("name");
    if (!invocation.arguments.empty()) {
        if (!name.empty())
            return fail(
                Code::invalid_argument,
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg");
        name = invocation.arguments[0];
    }
    json::object body{{"Name", name}, {"Driver", options.text("driver", "local")}};
    body["DriverOpts"] = pairs(options.list("opt"));
    body["Labels"] = pairs(options.list("label"));
    json::value request(std::move(body));
    json::value answer = TRY(session.post("/volumes/create", &request));
    session.out(text_at(answer, "Name") + "\n");
    return 0;
}

Result<int> list_volumes(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    json::value answer = TRY(session.get("/volumes" + query.text()));
    std::vector<const json::value*> volumes;
    if (const json::value* all = value_at(answer, "Volumes"); all != nullptr && all->is_array())
        for (const json::value& volume : all->get_array()) volumes.push_back(&volume);
    std::ranges::sort(volumes, {}, [](const json::value* volume) { return text_at(*volume, "Name"); });
    Listing listing(volume_columns, "{{.Driver}}\t{{.Name}}");
    listing.method = label_method;
    for (const json::value* volume : volumes) {
        json::object row{{"Name", text_at(*volume, "Name")},
                         {"Driver", text_at(*volume, "Driver")},
                         {"Scope", text_at(*volume, "Scope")},
                         {"Mountpoint", text_at(*volume, "Mountpoint")},
                         {"Labels", joined_labels(value_at(*volume, "Labels"))},
                         {"Links", "N/A"},
                         {"Size", "N/A"},
                         {"Availability", "N/A"},
                         {"Group", "N/A"},
                         {"Status", "N/A"}};
        if (const json::value* labels = value_at(*volume, "Labels")) row[label_source] = *labels;
        listing.add(std::move(row));
    }
    std::string format = options.text("format");
    if (options.flag("quiet") && format.empty()) format = "{{.Name}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

Result<int> remove_volume(Session& session, const Invocation& invocation) {
    QueryText query;
    query.add_flag("force", invocation.options.flag("force"));
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto removed = session.remove("/volumes/" + segment(name) + query.text());
        if (removed) {
            session.out(name + "\n");
        } else {
            session.report(removed.error());
            code = 1;
        }
    }
    return code;
}

}  // namespace

void add_volume_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"volume create"},
         .usage = "[OPTIONS] [VOLUME]",
         .summary = "Create a volume",
         .example = "wherry volume create data",
         .options = volume_create_options,
         .maximum = 1,
         .run = create_volume},
        {.names = {"volume ls", "volume list"},
         .usage = "[OPTIONS]",
         .summary = "List volumes",
         .example = "wherry volume ls -f dangling=true",
         .options = volume_ls_options,
         .maximum = 0,
         .run = list_volumes},
    };
    static const Command remove_command{.names = {"volume rm", "volume remove"},
                                        .usage = "[OPTIONS] VOLUME [VOLUME...]",
                                        .summary = "Remove one or more volumes",
                                        .example = "wherry volume rm data",
                                        .options = volume_rm_options,
                                        .minimum = 1,
                                        .run = remove_volume,
                                        .details = "A volume that a container uses can't be removed."};
    all.push_back(&table[0]);
    all.push_back(&table[1]);
    all.push_back(&remove_command);
}

}  // namespace wherry::cli
