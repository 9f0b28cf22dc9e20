#include "dns/steering/coordinates.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace wherry::dns::steering {

namespace {

constexpr double force = 0.25;       // cc of the paper
constexpr double confidence = 0.25;  // ce
constexpr int place_rounds = 400;
constexpr int locate_rounds = 120;

double euclid(const Coordinate& one, const Coordinate& other) {
    double sum = 0;
    for (std::size_t d = 0; d < coordinate_dimensions; ++d)
        sum += (one.at[d] - other.at[d]) * (one.at[d] - other.at[d]);
    return std::sqrt(sum);
}

// A reproducible unit vector for points that sit on one another.
std::array<double, coordinate_dimensions> some_direction(std::uint64_t& state) {
    std::array<double, coordinate_dimensions> direction{};
    double norm = 0;
    for (double& value : direction) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        value = static_cast<double>(state >> 33U) / 4294967296.0 - 0.25;
        norm += value * value;
    }
    norm = std::sqrt(std::max(norm, 1e-12));
    for (double& value : direction) value /= norm;
    return direction;
}

// One spring between a point that moves and one that does not, in this step.
void pull(Coordinate& point, const Coordinate& anchor, double rtt, double step, std::uint64_t& state) {
    double distance = euclid(point, anchor);
    double prediction = distance + point.height + anchor.height;
    double strength = step * (rtt - prediction);
    std::array<double, coordinate_dimensions> direction{};
    if (distance < 1e-6) {
        direction = some_direction(state);
    } else {
        for (std::size_t d = 0; d < coordinate_dimensions; ++d) direction[d] = (point.at[d] - anchor.at[d]) / distance;
    }
    // The height takes its share of the stretch, as the paper's height vectors do.
    double length = distance + point.height + anchor.height;
    double share = length < 1e-6 ? 0.5 : (point.height + anchor.height) / length;
    for (std::size_t d = 0; d < coordinate_dimensions; ++d) point.at[d] += strength * (1 - share) * direction[d];
    point.height = std::max(0.0, point.height + strength * share);
}

void step(Coordinate& point, const Coordinate& anchor, double rtt, std::uint64_t& state) {
    double weight = point.error / std::max(1e-9, point.error + anchor.error);
    double error = std::abs(predicted(point, anchor) - rtt) / rtt;
    point.error = std::clamp(error * confidence * weight + point.error * (1 - confidence * weight), 0.01, 1.0);
    pull(point, anchor, rtt, force * weight, state);
}

}  // namespace

double predicted(const Coordinate& one, const Coordinate& other) {
    return euclid(one, other) + one.height + other.height;
}

std::vector<Coordinate> place(std::size_t count, const std::vector<std::vector<float>>& rtt) {
    std::vector<Coordinate> points(count);
    std::uint64_t state = 0x57484552;
    // Begin apart: points that sit on one another with heights alone would never leave the place.
    for (Coordinate& point : points) {
        point.at = some_direction(state);
        for (double& value : point.at) value *= 50;
        point.height = 1;
    }
    for (int round = 0; round < place_rounds; ++round)
        for (std::size_t i = 0; i < count; ++i)
            for (std::size_t j = 0; j < count; ++j)
                if (i != j && rtt[i][j] > 0) step(points[i], points[j], static_cast<double>(rtt[i][j]), state);
    return points;
}

Coordinate locate(std::span<const Coordinate> landmarks, std::span<const float> rtt) {
    Coordinate point;
    std::uint64_t state = 0x4E44;
    // Begin at the nearest landmark: far from it there are other, worse minima.
    std::size_t nearest = landmarks.size();
    for (std::size_t i = 0; i < landmarks.size(); ++i)
        if (rtt[i] > 0 && (nearest == landmarks.size() || rtt[i] < rtt[nearest])) nearest = i;
    if (nearest == landmarks.size()) return point;
    auto away = some_direction(state);
    for (std::size_t d = 0; d < coordinate_dimensions; ++d)
        point.at[d] = landmarks[nearest].at[d] + away[d] * static_cast<double>(rtt[nearest]) / 2;
    point.height = static_cast<double>(rtt[nearest]) / 4;
    for (int round = 0; round < locate_rounds; ++round) {
        double size = force / (1 + round / 20.0);
        for (std::size_t i = 0; i < landmarks.size(); ++i)
            if (rtt[i] > 0) pull(point, landmarks[i], static_cast<double>(rtt[i]), size, state);
    }
    double worst = 0;
    std::size_t known = 0;
    for (std::size_t i = 0; i < landmarks.size(); ++i) {
        if (rtt[i] <= 0) continue;
        worst += std::abs(predicted(point, landmarks[i]) - static_cast<double>(rtt[i])) / static_cast<double>(rtt[i]);
        ++known;
    }
    // A fit to a few values is good by itself and says little of the others.
    double trust = static_cast<double>(known) / (static_cast<double>(known) + 3);
    point.error = std::clamp(worst / static_cast<double>(known) + (1 - trust), 0.01, 1.0);
    return point;
}

}  // namespace wherry::dns::steering
