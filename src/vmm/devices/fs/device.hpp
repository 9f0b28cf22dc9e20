// virtio-fs (Virtio 1.2, section 5.11): a directory of the host, served by another process over vhost-user. The
// monitor tells that process where the guest's memory and queues are, and steps aside: requests, kicks and interrupts
// never pass through it.
//
// When that process is gone, what it had taken and all that comes is answered with ENOTCONN (queues.cpp), and the
// monitor looks for another one at the same socket, which goes on where the queues are. A process that does not note
// what it has taken (vhost_user/inflight.hpp) cannot be replaced while a driver uses the device: then the device asks
// for a reset.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/devices/fs/metrics.hpp"
#include "vmm/vhost_user/frontend.hpp"
#include "vmm/vhost_user/inflight.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::fs {

inline constexpr std::size_t longest_tag = 36;

struct Config {
    std::string id;
    std::string tag;     // what the guest mounts; 1 to 36 bytes
    std::string socket;  // where the other process listens
};

class FsDevice final : public Device {
  public:
    // Connects at once. not_found and the like when nobody listens, invalid_argument for one that speaks otherwise.
    static Result<std::shared_ptr<FsDevice>> create(EventLoop& loop, const Config& config);
    // The same with a connected socket (tests).
    static Result<std::shared_ptr<FsDevice>> create(EventLoop& loop, const Config& config, Fd socket);

    DeviceType type() const override { return DeviceType::fs; }
    std::uint64_t offered_features() const override { return features_offered_; }
    std::vector<std::byte> configuration() const override;
    bool takes_queue_events(std::span<const int> events) override;
    const Config& config() const { return config_; }

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    FsDevice(EventLoop& loop, const Config& config, vhost_user::Frontend frontend, vhost_user::Inflight notes);
    Result<> prepare();
    Result<> watch_server();
    Result<> start_server();
    Result<> start_queue(std::uint16_t index);
    // The other process is gone, or of no use.
    void drop_server();
    Result<> lose_server(const std::string& why);
    Result<> look_for_server();

    // queues.cpp: without the other process.
    Result<> take_over(std::uint16_t index);
    Result<> refuse_all(std::uint16_t index);
    void refuse(std::uint16_t index);

    Config config_;
    std::optional<vhost_user::Frontend> frontend_;  // nothing: nobody serves
    vhost_user::Inflight notes_;
    std::uint64_t features_offered_;
    Watch end_watch_;
    std::unique_ptr<Timer> retry_;
    std::string last_failure_;         // of looking for another process; each is logged once
    std::vector<int> kicks_;           // of the transport, or our own
    std::vector<Fd> own_events_;       // kicks, until the transport gives its own
    std::vector<Watch> kick_watches_;  // while nobody serves
    // From the other process, for transports that have no event of their own (queue_event()).
    struct Call {
        Fd event;
        Watch watch;
    };
    std::vector<Call> calls_;
    Chain chain_;
};

}  // namespace wherry::vmm::fs
