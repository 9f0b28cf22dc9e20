// The JSON shapes of Docker's API: what clients' templates and structs read, in dockerd's order of members.
// Pure functions from the engine's views; `minor` is the API version where shapes differ. Room-internal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/docker/json_writer.hpp"
#include "engine/engine.hpp"

namespace wherry::api::docker {

enum class UsageData : std::uint8_t { hidden, shown };

void write_version(JsonWriter& writer, const engine::SystemVersion& version);
void write_info(JsonWriter& writer, const engine::SystemInfo& info, const engine::SystemVersion& version);
void write_event(JsonWriter& writer, const engine::Event& event, int minor);

void write_container_summary(JsonWriter& writer, const engine::ContainerSummary& container);
void write_container(JsonWriter& writer, const engine::ContainerView& container, int minor);
void write_endpoint(JsonWriter& writer, const engine::EndpointView& endpoint);
void write_mount(JsonWriter& writer, const engine::MountPoint& mount);
void write_exec(JsonWriter& writer, const engine::ExecView& exec);
// `previous` is the reading before, nullptr on the first.
void write_stats(JsonWriter& writer, const engine::StatsView& stats, const engine::StatsView* previous);

void write_image_summary(JsonWriter& writer, const engine::ImageSummary& image, int minor);
void write_image(JsonWriter& writer, const engine::ImageView& image, int minor);
void write_history(JsonWriter& writer, const std::vector<engine::ImageHistory>& history);

void write_removed(JsonWriter& writer, const std::vector<engine::RemovedContainer>& containers);

void write_volume(JsonWriter& writer, const engine::VolumeView& volume, UsageData usage);
void write_network(JsonWriter& writer, const engine::NetworkView& network);

// Seconds since 1970.
std::int64_t unix_seconds(WallTime time);

}  // namespace wherry::api::docker
