#include "processes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/fd.hpp"
#include "confinement.hpp"
#include "dns/signer_process.hpp"
#include "dns/steering/service.hpp"

namespace wherry {

using namespace dns;

namespace {

struct UserIds {
    uid_t uid = ::getuid();
    gid_t gid = ::getgid();
};

Result<UserIds> ids_of(const std::string& user) {
    UserIds ids;
    if (user.empty()) return ids;
    const passwd* entry = ::getpwnam(user.c_str());
    if (entry == nullptr) return fail(Code::not_found, "no user " + user);
    return UserIds{entry->pw_uid, entry->pw_gid};
}

// The folders of keys, made where they are not there, with all that is in them the signer's.
Result<std::vector<std::string>> key_folders(const Config& config) {
    std::vector<std::string> folders;
    auto add = [&](const std::optional<SigningConfig>& signing) {
        if (signing && std::ranges::find(folders, signing->keys) == folders.end()) folders.push_back(signing->keys);
    };
    for (const ZoneConfig& zone : config.zones) {
        add(zone.signing);
        if (zone.members) add(zone.members->signing);
    }
    const UserIds ids = TRY(ids_of(config.signer_user));
    for (const std::string& folder : folders) {
        TRY(make_directories(folder, 0700));
        if (config.signer_user.empty()) continue;
        Fd opened = TRY(open_file(folder, O_RDONLY | O_DIRECTORY));
        if (::fchown(opened.get(), ids.uid, ids.gid) < 0) return fail_errno("owner of " + folder);
        std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
        if (!directory) return fail_errno("keys in " + folder);
        while (const dirent* entry = ::readdir(directory.get())) {
            const std::string name = entry->d_name;
            if (!name.ends_with(".pem") && !name.ends_with(".state")) continue;
            if (::fchownat(opened.get(), name.c_str(), ids.uid, ids.gid, AT_SYMLINK_NOFOLLOW) < 0)
                return fail_errno("owner of " + folder + "/" + name);
        }
    }
    return folders;
}

}  // namespace

Result<std::shared_ptr<const steering::CommandChecks>> start_checks(const Config& config,
                                                                    const std::string& config_path) {
    if (config.steering.empty()) return nullptr;
    return TRY(steering::CommandChecks::start([&] { return leave_privileges(config.user); },
                                              [config_path] { return steering::read_check_commands(config_path); }),
               "checks");
}

Result<std::shared_ptr<SignerClient>> start_signing(const Config& config, const steering::CommandChecks* checks) {
    const std::vector<std::string> folders = TRY(key_folders(config), "signer");
    if (folders.empty()) return nullptr;
    // A connection for each thread that answers, and one for the keeper.
    const std::size_t answering = config.server.threads * (config.server.listen.size() + 1);
    auto connections = TRY(start_signer(answering + 1,
                                        [&]() -> Result<> {
                                            if (checks != nullptr) (void)::close(checks->socket());
                                            TRY(leave_privileges(config.signer_user));
                                            TRY(confine_files(folders));
                                            // Another user is sent no signal that was wished for before.
                                            (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
                                            return confine_system_calls(ConfinedProcess::signer);
                                        }),
                           "signer");
    return std::make_shared<SignerClient>(std::move(connections));
}

Result<> confine_server(const Config& config, Keeper& keeper) {
    const UserIds ids = TRY(ids_of(config.user));
    if (!config.state.empty()) {
        TRY(make_directories(config.state, 0750));
        if (!config.user.empty() && ::chown(config.state.c_str(), ids.uid, ids.gid) < 0)
            return fail_errno("owner of " + config.state);
    }
    if (!config.chroot.empty()) {
        if (::chroot(config.chroot.c_str()) < 0 || ::chdir("/") < 0) return fail_errno("chroot " + config.chroot);
        keeper.set_chrooted();
    }
    if (!config.user.empty() && (::setgroups(0, nullptr) < 0 || ::setgid(ids.gid) < 0 || ::setuid(ids.uid) < 0))
        return fail_errno("change to user " + config.user);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno("no_new_privs");
    return {};
}

}  // namespace wherry
