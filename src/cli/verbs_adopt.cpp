// adopt: images, volumes and stopped containers of a Docker data root. Works beside the daemon, on the same host and as
// root: the daemon gets images and records by its API, this process fills volumes and writable layers and lets layers
// share their files with Docker's.
#include <fcntl.h>
#include <unistd.h>

#include <ctime>
#include <map>
#include <set>

#include "adopt/archive.hpp"
#include "adopt/container_body.hpp"
#include "adopt/docker_root.hpp"
#include "adopt/trees.hpp"
#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/session.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr std::string_view default_root = "/var/lib/docker";

constexpr Option adopt_options[] = {
    {"dry-run", 0, {}, "Say what would be adopted, and do nothing"},
    {"no-links", 0, {}, "Do not let layers share files with Docker's"},
};

class Adoption {
  public:
    Adoption(Session& session, const adopt::DockerRoot& root, std::string data_root)
        : session_(session), root_(root), data_root_(std::move(data_root)), started_(::time(nullptr)) {}

    bool dry_run = false;
    bool links = true;

    Result<int> run() {
        auto complain = [this](const std::string& what, const Error& error) { refuse(what, error); };
        for (const adopt::DockerImage& image : TRY(root_.images(complain))) adopt_image(image);
        for (const adopt::DockerVolume& volume : TRY(root_.volumes(complain))) adopt_volume(volume);
        adopt_containers(TRY(root_.containers(complain)));
        return refused_ == 0 ? 0 : 1;
    }

  private:
    void say(const std::string& line) {
        session_.out(line + "\n");
        session_.flush();
    }
    void refuse(const std::string& what, const Error& error) {
        ++refused_;
        session_.error(what + ": not adopted: " + error.describe());
    }
    void conclude(const std::string& what, const Result<std::string>& outcome) {
        if (outcome) {
            say(what + ": " + *outcome);
        } else {
            refuse(what, outcome.error());
        }
    }
    // Whether the daemon has it; any other failure is one.
    Result<bool> there(const std::string& target) {
        auto answer = session_.get(target);
        if (answer) return true;
        if (answer.error().code() == Code::not_found) return false;
        return std::unexpected(std::move(answer).error());
    }
    std::string layer_folder(const adopt::DockerLayer& layer) const {
        return data_root_ + "/layers/" + layer.diff_id.substr(7) + "/diff";
    }

    // ---- images

    void adopt_image(const adopt::DockerImage& image) {
        std::string what = "image " + (image.names.empty() ? image.id.substr(7, 12) : image.names.front());
        conclude(what, image_outcome(image));
    }

    Result<std::string> image_outcome(const adopt::DockerImage& image) {
        bool known = TRY(there("/images/" + segment(image.id) + "/json"));
        if (dry_run) return std::string(known ? "is there already" : "would be adopted");
        if (known) {
            TRY(name_image(image));
            return std::string("is there already");
        }
        TRY(load(image));
        std::uint64_t shared = 0;
        if (links) {
            for (const adopt::DockerLayer& layer : image.layers) shared += TRY(share(layer), "layer " + layer.diff_id);
        }
        std::string text = "adopted";
        if (shared > 0) text += ", " + human_size(static_cast<double>(shared)) + " shared with Docker";
        return text;
    }

    Result<> name_image(const adopt::DockerImage& image) {
        for (const std::string& name : image.names) {
            if (TRY(there("/images/" + segment(name) + "/json"))) continue;  // theirs or ours: names are not taken away
            auto colon = name.rfind(':');
            QueryText query;
            query.add("repo", name.substr(0, colon))
                .add("tag", colon == std::string::npos ? "latest" : name.substr(colon + 1));
            TRY(session_.post("/images/" + segment(image.id) + "/tag" + query.text()));
        }
        return {};
    }

    Result<> load(const adopt::DockerImage& image) {
        adopt::ImageArchive archive(
            root_, image, [this](const adopt::DockerLayer& layer) { return path_exists(layer_folder(layer)); });
        std::optional<Error> broken;
        http::ClientRequest request{.method = "POST", .target = "/images/load?quiet=1"};
        request.content_type = "application/x-tar";
        request.body_source = [&](std::span<std::byte> buffer) -> Result<std::size_t> {
            auto got = archive.read(buffer);
            // The daemon sees only a cut archive: what is wrong is known here.
            if (!got) broken.emplace(got.error().clone());
            return got;
        };
        auto response = session_.checked(request);
        if (broken) return std::unexpected(std::move(*broken));
        if (!response) return std::unexpected(std::move(response).error());
        std::string answer = TRY(response->read_all());
        for (std::size_t begin = 0; begin < answer.size();) {
            std::size_t end = std::min(answer.find('\n', begin), answer.size());
            auto line = parse_json(std::string_view(answer).substr(begin, end - begin));
            begin = end + 1;
            if (!line) continue;
            if (std::string error = text_at(*line, "error"); !error.empty())
                return fail(Code::data_loss, std::move(error));
        }
        return {};
    }

    // The files of a layer become Docker's own, where they are on the same file system.
    Result<std::uint64_t> share(const adopt::DockerLayer& layer) {
        if (!shared_.insert(layer.diff_id).second) return std::uint64_t{0};
        Fd theirs = TRY(root_.layer_tree(layer));
        Fd ours = TRY(open_file(layer_folder(layer), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        return TRY(adopt::share_files(theirs.get(), ours.get(), started_)).bytes;
    }

    // ---- volumes

    void adopt_volume(const adopt::DockerVolume& volume) { conclude("volume " + volume.name, volume_outcome(volume)); }

    Result<std::string> volume_outcome(const adopt::DockerVolume& volume) {
        if (volume.has_options)
            return fail(Code::unimplemented, "it is mounted by options of a driver, and not kept in Docker's folder");
        if (TRY(there("/volumes/" + segment(volume.name)))) return std::string("is there already, and left alone");
        if (dry_run) return std::string("would be adopted");
        json::value body = json::object{{"Name", volume.name}};
        json::value made = TRY(session_.post("/volumes/create", &body));
        auto filled = [&]() -> Result<adopt::TreeTotals> {
            Fd from = TRY(root_.volume_tree(volume));
            Fd to = TRY(open_file(text_at(made, "Mountpoint"), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            return adopt::copy_tree(from.get(), to.get(), adopt::Attributes::plain);
        }();
        if (!filled) {
            static_cast<void>(session_.remove("/volumes/" + segment(volume.name)));
            return std::unexpected(std::move(filled).error());
        }
        return "adopted, " + human_size(static_cast<double>(filled->bytes));
    }

    // ---- containers

    // Those that others share namespaces with come first: again and again until nothing more can be done.
    void adopt_containers(std::vector<adopt::DockerContainer> waiting) {
        for (bool progress = true; progress && !waiting.empty();) {
            progress = false;
            std::vector<adopt::DockerContainer> later;
            for (adopt::DockerContainer& container : waiting) {
                if (auto body = adopt::container_body(container, adopted_);
                    !body && body.error().code() == Code::not_found) {
                    later.push_back(std::move(container));
                    continue;
                }
                progress = true;
                conclude("container " + container.name, container_outcome(container));
            }
            waiting = std::move(later);
        }
        for (const adopt::DockerContainer& container : waiting) {
            auto body = adopt::container_body(container, adopted_);
            if (!body) refuse("container " + container.name, body.error());
        }
    }

    Result<std::string> container_outcome(const adopt::DockerContainer& container) {
        if (container.running) return fail(Code::conflict, "Docker has it as running: stop it there first");
        if (TRY(there("/containers/" + segment(container.name) + "/json"))) {
            adopted_[container.id] = container.name;
            return std::string("is there already, and left alone");
        }
        adopt::ContainerBody plan = TRY(adopt::container_body(container, adopted_));
        if (dry_run) {
            adopted_[container.id] = container.name;
            return std::string("would be adopted");
        }
        TRY(choose_image(plan.body, container));
        json::value body = std::move(plan.body);
        QueryText query;
        query.add("name", container.name);
        json::value made = TRY(session_.post("/containers/create" + query.text(), &body));
        std::string id = text_at(made, "Id");
        auto filled = fill(container, id);
        if (!filled) {
            static_cast<void>(session_.remove("/containers/" + segment(id)));
            return std::unexpected(std::move(filled).error());
        }
        adopted_[container.id] = container.name;
        for (const std::string& notice : plan.notices) session_.error("container " + container.name + ": " + notice);
        return "adopted, " + human_size(static_cast<double>(filled->bytes)) + " written by it";
    }

    // The name it was made by, where that still means the same image.
    Result<> choose_image(json::object& body, const adopt::DockerContainer& container) {
        const json::value* name = body.if_contains("Image");
        if (name != nullptr && name->is_string() && !name->get_string().empty()) {
            auto image = session_.get("/images/" + segment(std::string(name->get_string())) + "/json");
            if (image && text_at(*image, "Id") == container.image_id) return {};
        }
        body["Image"] = container.image_id;
        return {};
    }

    Result<adopt::TreeTotals> fill(const adopt::DockerContainer& container, const std::string& id) {
        json::value view = TRY(session_.get("/containers/" + segment(id) + "/json"));
        std::string upper = text_at(view, "GraphDriver.Data.UpperDir");
        if (upper.empty()) return fail(Code::internal, "the daemon does not say where its layer is");
        Fd from = TRY(root_.container_tree(container));
        Fd to = TRY(open_file(upper, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        return adopt::copy_tree(from.get(), to.get(), adopt::Attributes::overlay_upper);
    }

    Session& session_;
    const adopt::DockerRoot& root_;
    std::string data_root_;
    std::int64_t started_;
    int refused_ = 0;
    std::set<std::string> shared_;
    std::map<std::string, std::string> adopted_;
};

Result<int> adopt_verb(Session& session, const Invocation& invocation) {
    std::string path = invocation.arguments.empty() ? std::string(default_root) : invocation.arguments.front();
    if (::geteuid() != 0)
        return fail(Code::permission_denied, "adopt reads Docker's files and writes the daemon's: run it as root");
    if (!session.host().starts_with("unix://"))
        return fail(Code::invalid_argument, "adopt works with the daemon of this host, by its unix socket");
    json::value info = TRY(session.get("/info"));
    std::string data_root = text_at(info, "DockerRootDir");
    if (!path_exists(data_root + "/layers"))
        return fail(Code::not_found, "the daemon's data root " + data_root + " is not to be seen from here");
    adopt::DockerRoot root = TRY(adopt::DockerRoot::open(path));
    Adoption adoption(session, root, data_root);
    adoption.dry_run = invocation.options.flag("dry-run");
    adoption.links = !invocation.options.flag("no-links");
    return adoption.run();
}

}  // namespace

void add_adopt_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"adopt"},
         .usage = "[OPTIONS] [DIRECTORY]",
         .summary = "Take over the images, volumes and stopped containers of a Docker data root",
         .example = "sudo wherry adopt /var/lib/docker\nsudo wherry adopt --dry-run",
         .options = adopt_options,
         .minimum = 0,
         .maximum = 1,
         .run = adopt_verb,
         .details =
             "DIRECTORY is /var/lib/docker where none is given. Docker's files stay as they are: layers share them "
             "where both are "
             "on one file system, volumes and what containers wrote are copied. What is there already is left alone."},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
