#include "oci/user.hpp"

#include <gtest/gtest.h>

namespace wherry::oci {
namespace {

const char* const passwd =
    "root:x:0:0:root:/root:/bin/sh\n"
    "# comment\n"
    "broken line\n"
    "bob:x:1000:1001:Bob:/home/bob:/bin/sh\n"
    "1234:x:7:8::/numbers:/bin/sh\n"
    "huge:x:4294967295:0::/:/bin/sh\n"
    "short:x:50:51\n"
    "last:x:60:61::/last:/bin/sh";
const char* const group =
    "root:x:0:\n"
    "wheel:x:10:root,bob\n"
    "audio:x:29:bob\n"
    "staff:x:50:bobby\n"
    "bob:x:1001:\n";

std::string text(const Result<ResolvedUser>& user) {
    if (!user) return user.error().describe();
    std::string result =
        std::to_string(user->user.uid) + ":" + std::to_string(user->user.gid) + " " + user->home + " " + user->name;
    for (gid_t gid : user->user.additional_gids) result += " " + std::to_string(gid);
    return result;
}

std::string resolve(std::string_view specification, std::vector<std::string> extra = {}) {
    return text(resolve_user_in(passwd, group, specification, extra));
}

TEST(User, Forms) {
    EXPECT_EQ(resolve("bob"), "1000:1001 /home/bob bob 10 29");
    EXPECT_EQ(resolve("1000"), "1000:1001 /home/bob bob 10 29");
    EXPECT_EQ(resolve(""), "0:0 /root root 10");
    EXPECT_EQ(resolve("bob:wheel"), "1000:10 /home/bob bob");
    EXPECT_EQ(resolve("bob:4711"), "1000:4711 /home/bob bob");
    EXPECT_EQ(resolve(":wheel"), "0:10 /root root");
    EXPECT_EQ(resolve("4242"), "4242:0 / ");
    EXPECT_EQ(resolve("4242:4243"), "4242:4243 / ");
    EXPECT_EQ(resolve("last"), "60:61 /last last");
    EXPECT_EQ(resolve("short"), "50:51 / short");
    // A name that looks like a number is a name first.
    EXPECT_EQ(resolve("1234"), "7:8 /numbers 1234");
}

TEST(User, ExtraGroups) {
    EXPECT_EQ(resolve("bob", {"staff", "4711", "wheel"}), "1000:1001 /home/bob bob 10 29 50 4711");
    EXPECT_EQ(resolve("bob", {"nosuch"}), "unable to find group nosuch: no matching entries in group file");
}

TEST(User, Errors) {
    EXPECT_EQ(resolve("nosuch"), "unable to find user nosuch: no matching entries in passwd file");
    EXPECT_EQ(resolve("bob:nosuch"), "unable to find group nosuch: no matching entries in group file");
    EXPECT_NE(resolve("4294967295").find("must be in range"), std::string::npos);
    EXPECT_NE(resolve("bob:99999999999").find("unable to find group"), std::string::npos);
    EXPECT_EQ(resolve("huge"), "unable to find user huge: no matching entries in passwd file");
    EXPECT_EQ(text(resolve_user_in("", "", "root")), "unable to find user root: no matching entries in passwd file");
    EXPECT_EQ(text(resolve_user_in("", "", "")), "0:0 / ");
}

}  // namespace
}  // namespace wherry::oci
