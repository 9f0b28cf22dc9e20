// container, image, volume, network and system prune.
#include <unistd.h>

#include <cstdio>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option prune_options[] = {
    {"filter", 0, "filter", "Provide filter values (e.g. \"until=<timestamp>\", \"label=<label>\")", check_filter},
    {"force", 'f', {}, "Do not prompt for confirmation"},
};
constexpr Option prune_all_options[] = {
    {"all", 'a', {}, "Remove all unused ones, not just dangling images or anonymous volumes"},
    {"filter", 0, "filter", "Provide filter values (e.g. \"until=<timestamp>\", \"label=<label>\")", check_filter},
    {"force", 'f', {}, "Do not prompt for confirmation"},
};
constexpr Option prune_system_options[] = {
    {"all", 'a', {}, "Remove all unused images not just dangling ones"},
    {"filter", 0, "filter", "Provide filter values (e.g. \"label=<key>=<value>\")", check_filter},
    {"force", 'f', {}, "Do not prompt for confirmation"},
    {"volumes", 0, {}, "Prune anonymous volumes"},
};

bool confirmed(Session& session, const ParsedOptions& options, std::string_view warning) {
    if (options.flag("force")) return true;
    session.out("WARNING! " + std::string(warning) + "\nAre you sure you want to continue? [y/N] ");
    session.flush();
    std::string answer;
    char c = 0;
    while (::read(STDIN_FILENO, &c, 1) == 1 && c != '\n') answer += c;
    return answer == "y" || answer == "Y";
}

Result<std::string> filters_of(const ParsedOptions& options, const json::object& more = {}) {
    std::string filters = TRY(encode_filters(options.list("filter"), more));
    return filters.empty() ? std::string() : QueryText().add("filters", filters).text();
}

void show_list(Session& session, const json::value& answer, std::string_view key, std::string_view title) {
    const json::value* list = value_at(answer, key);
    if (list == nullptr || !list->is_array() || list->get_array().empty()) return;
    std::string out = std::string(title) + ":\n";
    for (const json::value& item : list->get_array()) {
        if (item.is_string()) out += print_text(item) + "\n";
        if (std::string text = text_at(item, "Untagged"); !text.empty()) out += "untagged: " + text + "\n";
        if (std::string text = text_at(item, "Deleted"); !text.empty()) out += "deleted: " + text + "\n";
    }
    session.out(out + "\n");
}

void show_space(Session& session, std::int64_t bytes) {
    session.out("Total reclaimed space: " + human_size(static_cast<double>(bytes), 4) + "\n");
}

Result<int> prune_containers(Session& session, const Invocation& invocation) {
    if (!confirmed(session, invocation.options, "This will remove all stopped containers.")) return 1;
    json::value answer = TRY(session.post("/containers/prune" + TRY(filters_of(invocation.options))));
    show_list(session, answer, "ContainersDeleted", "Deleted Containers");
    show_space(session, integer_at(answer, "SpaceReclaimed"));
    return 0;
}

json::object dangling(bool all) {
    return {{"dangling", json::object{{all ? "false" : "true", true}}}};
}

Result<int> prune_images(Session& session, const Invocation& invocation) {
    bool all = invocation.options.flag("all");
    if (!confirmed(session, invocation.options,
                   all ? "This will remove all images without at least one container associated to them."
                       : "This will remove all dangling images."))
        return 1;
    json::value answer = TRY(session.post("/images/prune" + TRY(filters_of(invocation.options, dangling(all)))));
    show_list(session, answer, "ImagesDeleted", "Deleted Images");
    show_space(session, integer_at(answer, "SpaceReclaimed"));
    return 0;
}

Result<int> prune_volumes(Session& session, const Invocation& invocation) {
    bool all = invocation.options.flag("all");
    if (!confirmed(session, invocation.options,
                   all ? "This will remove all local volumes not used by at least one container."
                       : "This will remove anonymous local volumes not used by at least one container."))
        return 1;
    json::object more;
    if (all) more["all"] = json::object{{"true", true}};
    json::value answer = TRY(session.post("/volumes/prune" + TRY(filters_of(invocation.options, more))));
    show_list(session, answer, "VolumesDeleted", "Deleted Volumes");
    show_space(session, integer_at(answer, "SpaceReclaimed"));
    return 0;
}

Result<int> prune_networks(Session& session, const Invocation& invocation) {
    if (!confirmed(session, invocation.options,
                   "This will remove all custom networks not used by at least one container."))
        return 1;
    json::value answer = TRY(session.post("/networks/prune" + TRY(filters_of(invocation.options))));
    show_list(session, answer, "NetworksDeleted", "Deleted Networks");
    return 0;
}

Result<int> prune_system(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    bool all = options.flag("all");
    std::string warning =
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n";
    if (options.flag("volumes")) warning += "  - all anonymous volumes not used by at least one container\n";
    warning += all ? "  - all images without at least one container associated to them\n" : "  - all dangling images\n";
    if (!confirmed(session, options, warning)) return 1;
    std::int64_t space = 0;
    json::value containers = TRY(session.post("/containers/prune" + TRY(filters_of(options))));
    show_list(session, containers, "ContainersDeleted", "Deleted Containers");
    space += integer_at(containers, "SpaceReclaimed");
    json::value networks = TRY(session.post("/networks/prune" + TRY(filters_of(options))));
    show_list(session, networks, "NetworksDeleted", "Deleted Networks");
    if (options.flag("volumes")) {
        json::value volumes = TRY(session.post("/volumes/prune" + TRY(filters_of(options))));
        show_list(session, volumes, "VolumesDeleted", "Deleted Volumes");
        space += integer_at(volumes, "SpaceReclaimed");
    }
    json::value images = TRY(session.post("/images/prune" + TRY(filters_of(options, dangling(all)))));
    show_list(session, images, "ImagesDeleted", "Deleted Images");
    show_space(session, space + integer_at(images, "SpaceReclaimed"));
    return 0;
}

}  // namespace

void add_prune_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"container prune"},
         .usage = "[OPTIONS]",
         .summary = "Remove all stopped containers",
         .example = "wherry container prune -f",
         .options = prune_options,
         .maximum = 0,
         .run = prune_containers},
        {.names = {"image prune"},
         .usage = "[OPTIONS]",
         .summary = "Remove unused images",
         .example = "wherry image prune -af",
         .options = prune_all_options,
         .maximum = 0,
         .run = prune_images},
        {.names = {"volume prune"},
         .usage = "[OPTIONS]",
         .summary = "Remove unused local volumes",
         .example = "wherry volume prune -f",
         .options = prune_all_options,
         .maximum = 0,
         .run = prune_volumes},
        {.names = {"network prune"},
         .usage = "[OPTIONS]",
         .summary = "Remove all unused networks",
         .example = "wherry network prune -f",
         .options = prune_options,
         .maximum = 0,
         .run = prune_networks},
        {.names = {"system prune"},
         .usage = "[OPTIONS]",
         .summary = "Remove unused data",
         .example = "wherry system prune --volumes",
         .options = prune_system_options,
         .maximum = 0,
         .run = prune_system},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
