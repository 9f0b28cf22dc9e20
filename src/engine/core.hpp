// What the parts of the engine share. Internal; lives on the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "base/fd.hpp"
#include "confine/seccomp_compile/compile.hpp"
#include "engine/async.hpp"
#include "engine/container.hpp"
#include "engine/container_table.hpp"
#include "engine/engine.hpp"
#include "engine/journal.hpp"
#include "engine/sandbox.hpp"
#include "image/image_store.hpp"
#include "net/network.hpp"
#include "store/store.hpp"

namespace wherry::engine {

inline constexpr std::string_view image_name_kind = "image-name";
// One for each image somebody was told of: an image without is what a crash left of an import or a load.
inline constexpr std::string_view image_kind = "image";
inline constexpr std::string_view volume_kind = "volume";

struct Volume {
    std::string name;
    WallTime created;
    StringMap labels;
    StringMap options;
    bool anonymous = false;
    bool written = false;  // its record is in the store, or on its way there
};
store::Record to_record(const Volume& volume);
Result<Volume> volume_from_record(const store::Record& record);

inline constexpr std::string_view removed_kind = "removed-container";

// A removed container whose files are still there; the whole of it is in the store.
struct Kept {
    std::string name;
    std::string image_id;
    std::string image;
    StringMap labels;
    Strings diff_ids;
    WallTime created;
    WallTime removed_at;
    bool moved = true;  // its files are where they are to stay
};

struct Core {
    Core(EngineOptions given, unsigned threads)
        : options(std::move(given)), executor(options.executor), pool(threads), gate(executor), events(executor) {}

    EngineOptions options;
    asio::any_io_executor executor;
    Pool pool;
    Gate gate;
    EventBus events;
    Fd root_lock;
    std::string id;  // of this daemon's data root
    std::unique_ptr<store::Store> store;
    std::unique_ptr<Journal> journal;
    std::unique_ptr<image::ImageStore> images;
    std::unique_ptr<net::NetworkManager> network;
    net::BridgeInfo bridge;
    std::unique_ptr<confine::SeccompCache> seccomp;
    bool unified_cgroups = false;
    std::uint64_t activity = 0;  // grows with everything that happens

    ContainerTable containers;
    SandboxTable sandboxes;  // those that containers share
    // Canonical reference, "name:tag" or "name@digest" (of a manifest, after a pull or push), -> image id.
    std::map<std::string, std::string> image_names;
    // System calls denied to processes that no container could be found for yet: a start may still be under way.
    std::deque<std::pair<int, std::string>> recent_denials;
    std::set<std::string> known_images;  // ids with a record
    std::map<std::string, Volume> volumes;
    std::map<std::string, Kept> kept;  // removed containers, by id
    Signal kept_changed;
    std::uint64_t revision = 0;                                           // see Containers::revision()
    mutable std::map<std::string, std::string, std::less<>> network_ids;  // made once

    std::string volume_directory(const std::string& name) const { return options.data_root + "/volumes/" + name; }
    std::string volume_data(const std::string& name) const { return volume_directory(name) + "/_data"; }
    std::string kept_directory(const std::string& container_id) const {
        return options.data_root + "/removed/" + container_id;
    }
    std::set<std::string> layers_in_use() const;
    // By full id, name or unambiguous prefix of an id: the image's id. not_found "No such image: x".
    Result<std::string> resolve_image(const std::string& reference) const;
    Strings names_of_image(const std::string& image_id) const;    // familiar, "busybox:latest"
    Strings digests_of_image(const std::string& image_id) const;  // familiar, "busybox@sha256:…"
    void publish(std::string_view type, std::string_view action, const std::string& subject, StringMap attributes);
    void publish(const Container& container, std::string_view action, StringMap more = {});
};

Result<Kept> kept_from_record(const store::Record& record);

// Docker's ids of the predefined networks: made of the data root's id, so that they stay.
std::string network_id(const Core& core, std::string_view name);

}  // namespace wherry::engine
