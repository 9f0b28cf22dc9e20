// A directory tree that plays resctrl in tests: machines with the real one are rare. Folders come with their files, and
// go with them, because this header stands in front of mkdirat and unlinkat of the test program that includes it (in
// one of its files). What is written to `schemata` and `tasks` is kept as it came.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>

#include "base/fd.hpp"
#include "confine/resctrl.hpp"

namespace wherry::confine {

class FakeResctrl {
  public:
    FakeResctrl() {
        std::string pattern = std::filesystem::temp_directory_path() / "wherry-resctrl-XXXXXX";
        root_ = std::filesystem::canonical(::mkdtemp(pattern.data()));
        for (const char* folder : {"info/L3", "info/MB", "info/L3_MON", "mon_groups"})
            std::filesystem::create_directories(root_ + "/" + folder);
        write("info/last_cmd_status", "ok\n");
        write("info/MB/bandwidth_gran", "10\n");
        write("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n");
        populate(root_);
        present = this;
    }
    FakeResctrl(const FakeResctrl&) = delete;
    FakeResctrl& operator=(const FakeResctrl&) = delete;
    ~FakeResctrl() {
        present = nullptr;
        std::filesystem::remove_all(root_);
    }

    ResctrlMount mount() const { return {.path = root_}; }
    bool has(const std::string& name) const { return std::filesystem::exists(root_ + "/" + name); }
    std::string read(const std::string& name) const { return read_file(root_ + "/" + name).value_or("(missing)"); }
    void write(const std::string& name, const std::string& text) const {
        EXPECT_TRUE(write_file_atomic(root_ + "/" + name, text, 0644, Durability::none));
    }
    void lose(const std::string& name) const { std::filesystem::remove_all(root_ + "/" + name); }
    // Somebody else's group.
    void add_group(const std::string& name, const std::string& schemata) const {
        std::filesystem::create_directories(root_ + "/" + name + "/mon_groups");
        populate(root_ + "/" + name);
        write(name + "/schemata", schemata);
    }

    int mkdir_error = 0;            // what the next groups are refused with
    bool refuses_schemata = false;  // EINVAL for what is written to those of the next groups

    static inline FakeResctrl* present = nullptr;

    int make(int parent, const char* name, mode_t mode) {
        std::string path = path_of(parent, name);
        if (!path.starts_with(root_ + "/")) return raw_make(parent, name, mode);
        if (mkdir_error != 0) {
            errno = mkdir_error;
            return -1;
        }
        int made = raw_make(parent, name, mode);
        if (made == 0) populate(path);
        return made;
    }
    int remove(int parent, const char* name) {
        std::string path = path_of(parent, name);
        if (path.starts_with(root_ + "/") && std::filesystem::exists(path + "/tasks")) {
            FakeResctrl* self = std::exchange(present, nullptr);
            std::filesystem::remove_all(path);
            present = self;
            return 0;
        }
        return raw_remove(parent, name, AT_REMOVEDIR);
    }
    static int raw_make(int parent, const char* name, mode_t mode) {
        return static_cast<int>(::syscall(SYS_mkdirat, parent, name, mode));
    }
    static int raw_remove(int parent, const char* name, int flags) {
        return static_cast<int>(::syscall(SYS_unlinkat, parent, name, flags));
    }

  private:
    static std::string path_of(int parent, const char* name) {
        if (*name == '/' || parent == AT_FDCWD) return name;
        std::error_code problem;
        std::string folder = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(parent), problem);
        return folder + "/" + name;
    }
    void populate(const std::string& folder) const {
        auto fill = [&](const char* name, const char* text) {
            EXPECT_TRUE(write_file_atomic(folder + "/" + name, text, 0644, Durability::none));
        };
        fill("tasks", "");
        if (std::filesystem::path(folder).parent_path().filename() == "mon_groups") return;
        raw_make(AT_FDCWD, (folder + "/mon_groups").c_str(), 0755);
        // A file of procfs which takes numbers alone.
        if (refuses_schemata) {
            std::filesystem::create_symlink("/proc/self/oom_score_adj", folder + "/schemata");
        } else {
            fill("schemata", "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n");
        }
    }

    std::string root_;
};

}  // namespace wherry::confine

// In place of libc's, for all of the program.
extern "C" {
[[gnu::used]] inline int mkdirat(int parent, const char* name, mode_t mode) noexcept {
    auto* fake = wherry::confine::FakeResctrl::present;
    return fake != nullptr ? fake->make(parent, name, mode)
                           : wherry::confine::FakeResctrl::raw_make(parent, name, mode);
}
[[gnu::used]] inline int unlinkat(int parent, const char* name, int flags) noexcept {
    auto* fake = wherry::confine::FakeResctrl::present;
    return fake != nullptr && flags == AT_REMOVEDIR ? fake->remove(parent, name)
                                                    : wherry::confine::FakeResctrl::raw_remove(parent, name, flags);
}
}
