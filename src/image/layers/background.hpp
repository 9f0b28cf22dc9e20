// One thread for what may come later: deleting trees that were set aside, and syncing. It starts with the first job.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace wherry::image {

class Background {
  public:
    Background() = default;
    ~Background();  // finishes the job it is at; the rest is swept at the next start
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    void submit(std::function<void()> job);
    void drain();  // until nothing is left

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;
    bool busy_ = false;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace wherry::image
