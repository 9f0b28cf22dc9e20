// One confined child that works on a container's root file system, watched from the loop. Internal.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <optional>
#include <string>

#include "engine/core.hpp"
#include "image/copy/spawn.hpp"

namespace wherry::engine {

class RootHelper {
  public:
    // snapshot: a read-only mount of its own; layer: it keeps the writable layer (or the mount it is in) busy, so that
    // a start of the container has to end it first.
    enum class Holds : unsigned char { snapshot, layer };
    // Takes over a child that was just started. `guard` (of a container that does not run) is held until the child is
    // gone, so that nobody else mounts the writable layer meanwhile.
    static std::shared_ptr<RootHelper> adopt(Core& core, ContainerPtr container, image::CopyProcess process,
                                             std::optional<Mutex::Guard> guard, Holds holds);
    ~RootHelper() { stop(); }
    RootHelper(const RootHelper&) = delete;
    RootHelper& operator=(const RootHelper&) = delete;

    // The next report ("ok", "ready", "stat ..."); what the child reports as an error is this call's error. cancelled
    // after stop(), internal when the child ended without a word.
    asio::awaitable<Result<std::string>> next_report();
    // Ends the child; container->copying says when it is gone.
    void stop();

  private:
    struct Remains;
    explicit RootHelper(Core& core) : core_(core), reports_(core.executor) {}
    static asio::awaitable<void> bury(Core& core, std::shared_ptr<Remains> remains);

    Core& core_;
    asio::posix::stream_descriptor reports_;
    std::string pending_;
    std::shared_ptr<Remains> remains_;  // nullptr: stopped
};

// Ends all copies that are under way on the container's root, and returns when they are gone.
asio::awaitable<void> end_copies(ContainerPtr container);

}  // namespace wherry::engine
