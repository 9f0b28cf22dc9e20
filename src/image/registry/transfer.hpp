// What pulls and pushes share. Room-internal.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "image/bytes.hpp"
#include "image/reference.hpp"

namespace wherry::image {

inline std::string short_digest(std::string_view digest) {
    return std::string(digest_hex(digest).substr(0, 12));
}

// One call at a time, whatever thread it comes from.
class Reporter {
  public:
    explicit Reporter(ProgressFunction function) : function_(std::move(function)) {}
    Result<> operator()(const Progress& progress) {
        if (!function_) return {};
        std::lock_guard lock(lock_);
        return function_(progress);
    }

  private:
    ProgressFunction function_;
    std::mutex lock_;
};

// Runs `work(i)` for each i below count on some threads; the first error stops the rest.
inline Result<> for_each_parallel(std::size_t count, unsigned threads, const std::function<Result<>(std::size_t)>& work,
                                  std::atomic<bool>& stop) {
    std::atomic<std::size_t> next{0};
    std::mutex lock;
    std::optional<Error> first;
    auto run = [&] {
        for (std::size_t i = next++; i < count && !stop; i = next++) {
            if (auto outcome = work(i); !outcome) {
                std::lock_guard guard(lock);
                if (!first) first = std::move(outcome).error();
                stop = true;
            }
        }
    };
    std::vector<std::thread> pool;
    for (std::size_t i = 1; i < std::min<std::size_t>(threads, count); ++i) pool.emplace_back(run);
    run();
    for (std::thread& thread : pool) thread.join();
    if (first) return std::unexpected(std::move(*first));
    return {};
}

}  // namespace wherry::image
