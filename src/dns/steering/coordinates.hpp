// Network coordinates: hosts as points whose distances are round trips, after Vivaldi (Dabek et al., SIGCOMM 2004): a
// Euclidean space with a height for the access link, fitted by springs.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace wherry::dns::steering {

inline constexpr std::size_t coordinate_dimensions = 5;

struct Coordinate {
    std::array<double, coordinate_dimensions> at{};  // ms
    double height = 0;                               // ms, at least 0
    double error = 1;                                // relative, of what it predicts; 1: knows nothing
};

// The round trip between two points, ms.
double predicted(const Coordinate& one, const Coordinate& other);

// Places `count` points so that their distances come near the measured ones. rtt(i, j) in ms; not above 0: unknown.
std::vector<Coordinate> place(std::size_t count, const std::vector<std::vector<float>>& rtt);

// Places one point by its round trips to points that stay where they are. Values not above 0 are unknown; with none
// known the result's error is 1.
Coordinate locate(std::span<const Coordinate> landmarks, std::span<const float> rtt);

}  // namespace wherry::dns::steering
