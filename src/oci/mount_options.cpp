#include "oci/mount_options.hpp"

#include <sys/mount.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace wherry::oci {

namespace {

struct AttributeWord {
    std::string_view word;
    std::uint64_t attribute;
    bool clear;
};

// Access times are one field: a value of it is set after the field has been cleared.
constexpr std::array attribute_words{
    AttributeWord{"ro", MOUNT_ATTR_RDONLY, false},
    AttributeWord{"rw", MOUNT_ATTR_RDONLY, true},
    AttributeWord{"nosuid", MOUNT_ATTR_NOSUID, false},
    AttributeWord{"suid", MOUNT_ATTR_NOSUID, true},
    AttributeWord{"nodev", MOUNT_ATTR_NODEV, false},
    AttributeWord{"dev", MOUNT_ATTR_NODEV, true},
    AttributeWord{"noexec", MOUNT_ATTR_NOEXEC, false},
    AttributeWord{"exec", MOUNT_ATTR_NOEXEC, true},
    AttributeWord{"nodiratime", MOUNT_ATTR_NODIRATIME, false},
    AttributeWord{"diratime", MOUNT_ATTR_NODIRATIME, true},
    AttributeWord{"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, false},
    AttributeWord{"symfollow", MOUNT_ATTR_NOSYMFOLLOW, true},
};

constexpr std::array time_words{
    AttributeWord{"relatime", MOUNT_ATTR_RELATIME, false},
    AttributeWord{"norelatime", MOUNT_ATTR_STRICTATIME, false},
    AttributeWord{"noatime", MOUNT_ATTR_NOATIME, false},
    AttributeWord{"atime", MOUNT_ATTR_RELATIME, false},
    AttributeWord{"strictatime", MOUNT_ATTR_STRICTATIME, false},
    AttributeWord{"nostrictatime", MOUNT_ATTR_RELATIME, false},
};

struct PropagationWord {
    std::string_view word;
    unsigned long flags;
};

constexpr std::array propagation_words{
    PropagationWord{"private", MS_PRIVATE},       PropagationWord{"rprivate", MS_PRIVATE | MS_REC},
    PropagationWord{"shared", MS_SHARED},         PropagationWord{"rshared", MS_SHARED | MS_REC},
    PropagationWord{"slave", MS_SLAVE},           PropagationWord{"rslave", MS_SLAVE | MS_REC},
    PropagationWord{"unbindable", MS_UNBINDABLE}, PropagationWord{"runbindable", MS_UNBINDABLE | MS_REC},
};

// Words of every file system's superblock: fsconfig(2) takes them as flags. The negative ones are its defaults.
constexpr std::array<std::string_view, 6> superblock_flags{"sync", "dirsync", "mand", "lazytime", "silent", "posixacl"};
constexpr std::array<std::string_view, 6> ignored_words{"defaults", "async", "nomand", "nolazytime", "loud", "_netdev"};

template <class List>
bool contains(const List& list, std::string_view word) {
    for (std::string_view item : list) {
        if (item == word) return true;
    }
    return false;
}

bool apply_attribute(std::string_view word, std::uint64_t& set, std::uint64_t& clear) {
    for (const AttributeWord& entry : attribute_words) {
        if (entry.word != word) continue;
        if (entry.clear) {
            set &= ~entry.attribute;
            clear |= entry.attribute;
        } else {
            clear &= ~entry.attribute;
            set |= entry.attribute;
        }
        return true;
    }
    for (const AttributeWord& entry : time_words) {
        if (entry.word != word) continue;
        set = (set & ~std::uint64_t{MOUNT_ATTR__ATIME}) | entry.attribute;
        clear |= MOUNT_ATTR__ATIME;
        return true;
    }
    return false;
}

bool apply_propagation(std::string_view word, unsigned long& propagation) {
    for (const PropagationWord& entry : propagation_words) {
        if (entry.word != word) continue;
        propagation = entry.flags;
        return true;
    }
    return false;
}

}  // namespace

std::vector<std::string> known_mount_options() {
    std::vector<std::string> words{"bind", "rbind", "tmpcopyup", "idmap", "ridmap"};
    for (const AttributeWord& entry : attribute_words) {
        words.emplace_back(entry.word);
        words.push_back("r" + std::string(entry.word));
    }
    for (const AttributeWord& entry : time_words) {
        words.emplace_back(entry.word);
        words.push_back("r" + std::string(entry.word));
    }
    for (const PropagationWord& entry : propagation_words) words.emplace_back(entry.word);
    words.insert(words.end(), superblock_flags.begin(), superblock_flags.end());
    words.insert(words.end(), ignored_words.begin(), ignored_words.end());
    std::ranges::sort(words);
    return words;
}

bool MountOptions::readonly() const {
    return ((attributes_set | recursive_set) & MOUNT_ATTR_RDONLY) != 0;
}

Result<MountOptions> parse_mount_options(std::span<const std::string> options) {
    MountOptions result;
    for (const std::string& option : options) {
        std::string_view word = option;
        if (word.empty() || contains(ignored_words, word)) continue;
        if (apply_propagation(word, result.propagation)) continue;
        if (word == "bind") {
            result.bind = true;
        } else if (word == "rbind") {
            result.bind = result.bind_recursive = true;
        } else if (word == "tmpcopyup") {
            result.copy_up = true;
        } else if (word == "idmap") {
            result.idmap = true;
        } else if (word == "ridmap") {
            result.idmap = result.idmap_recursive = true;
        } else if (word == "remount") {
            return fail(Code::invalid_argument, "mount option remount has no meaning in a new container");
        } else if (contains(superblock_flags, word)) {
            result.flags.emplace_back(word);
        } else if (apply_attribute(word, result.attributes_set, result.attributes_clear)) {
            continue;
        } else if (word.size() > 1 && word.front() == 'r' &&
                   apply_attribute(word.substr(1), result.recursive_set, result.recursive_clear)) {
            continue;
        } else if (auto equals = word.find('='); equals != std::string_view::npos) {
            result.values.emplace_back(word.substr(0, equals), word.substr(equals + 1));
        } else {
            result.flags.emplace_back(word);
        }
    }
    return result;
}

}  // namespace wherry::oci
