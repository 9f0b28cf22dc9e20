#include "confine/systemd.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "confine/dbus_message.hpp"

namespace wherry::confine {
namespace {

TEST(SystemdCgroupsPath, Forms) {
    auto request = parse_systemd_cgroups_path("machine.slice:libpod:abc", "id", false);
    ASSERT_TRUE(request);
    EXPECT_EQ(request->slice, "machine.slice");
    EXPECT_EQ(request->unit, "libpod-abc.scope");
    EXPECT_EQ(parse_systemd_cgroups_path("", "id", false)->unit, "wherry-id.scope");
    EXPECT_EQ(parse_systemd_cgroups_path("", "id", false)->slice, "system.slice");
    EXPECT_EQ(parse_systemd_cgroups_path("", "id", true)->slice, "user.slice");
    EXPECT_EQ(parse_systemd_cgroups_path(":docker:abc", "id", false)->slice, "system.slice");
    EXPECT_EQ(parse_systemd_cgroups_path("a-b.slice::abc", "id", false)->unit, "abc.scope");
    for (const char* bad : {"/docker/abc", "one:two", "a:b:c:d", "noslice:b:c", "x.slice:b:a b", "x.slice:b:../../etc"})
        EXPECT_FALSE(parse_systemd_cgroups_path(bad, "id", false)) << bad;
}

TEST(SystemdCgroupsPath, WhereAProcessIs) {
    EXPECT_EQ(systemd_cgroup_of("0::/system.slice/a.scope\n").value(), "/system.slice/a.scope");
    EXPECT_EQ(systemd_cgroup_of("3:cpu:/\n1:name=systemd:/system.slice/a.scope\n0::/other\n").value(),
              "/system.slice/a.scope");
    EXPECT_FALSE(systemd_cgroup_of("3:cpu:/\n"));
}

TEST(DbusMessage, RoundTrip) {
    dbus::Writer body;
    body.string("a unit");
    body.boolean(true);
    std::string bytes =
        dbus::method_call(7, "org.example", "/org/example", "org.example.Thing", "Do", "sb", body.bytes());
    EXPECT_EQ(dbus::message_length(bytes).value(), bytes.size());
    EXPECT_FALSE(dbus::message_length(bytes.substr(0, 15)).value().has_value());
    auto message = dbus::parse_message(bytes);
    ASSERT_TRUE(message) << message.error().describe();
    EXPECT_EQ(message->type, dbus::MessageType::method_call);
    EXPECT_EQ(message->serial, 7U);
    EXPECT_EQ(message->path, "/org/example");
    EXPECT_EQ(message->interface, "org.example.Thing");
    EXPECT_EQ(message->member, "Do");
    EXPECT_EQ(message->signature, "sb");
    EXPECT_EQ(message->body, body.bytes());
    dbus::Reader reader(message->body, false);
    EXPECT_EQ(reader.string(), "a unit");
    EXPECT_EQ(reader.u32(), 1U);
    EXPECT_FALSE(reader.u32());
}

TEST(DbusMessage, DamagedOnesAreRefused) {
    std::string good = dbus::method_call(1, "d", "/p", "i.i", "M", "", "");
    for (std::size_t length = 0; length < good.size(); ++length)
        EXPECT_FALSE(dbus::parse_message(good.substr(0, length)));
    for (std::size_t at = 0; at < good.size(); ++at) {
        std::string damaged = good;
        damaged[at] = static_cast<char>(damaged[at] ^ 0xff);
        [[maybe_unused]] auto parsed = dbus::parse_message(damaged);  // whatever it says, it says it without harm
    }
    std::string huge = good;
    huge[4] = huge[5] = huge[6] = huge[7] = '\x7f';
    EXPECT_FALSE(dbus::message_length(huge));
}

// As much of systemd as the client talks to, on a socket of its own.
class FakeSystemd {
  public:
    explicit FakeSystemd(std::string path) : path_(std::move(path)), listener_(listen_unix(path_, 0600).value()) {
        thread_ = std::thread([this] { serve(); });
    }
    ~FakeSystemd() {
        ::shutdown(listener_.get(), SHUT_RDWR);
        thread_.join();
        ::unlink(path_.c_str());
    }
    std::vector<std::string> calls() {
        std::lock_guard lock(mutex_);
        return calls_;
    }
    std::string body_of(const std::string& member) {
        std::lock_guard lock(mutex_);
        return bodies_[member];
    }
    std::atomic<bool> unit_exists = false;
    std::atomic<bool> job_fails = false;

  private:
    static std::string reply(std::uint32_t to, dbus::MessageType type, std::string_view member, std::string_view error,
                             std::string_view signature, std::string_view body) {
        dbus::Writer out;
        out.byte('l');
        out.byte(static_cast<std::uint8_t>(type));
        out.byte(0);
        out.byte(1);
        out.u32(static_cast<std::uint32_t>(body.size()));
        out.u32(99);
        auto fields = out.begin_array(8);
        auto field = [&](std::uint8_t code, std::string_view kind, const std::function<void()>& value) {
            out.align(8);
            out.byte(code);
            out.signature(kind);
            value();
        };
        if (!member.empty()) field(3, "s", [&] { out.string(member); });
        if (!error.empty()) field(4, "s", [&] { out.string(error); });
        if (to != 0) field(5, "u", [&] { out.u32(to); });
        if (!signature.empty()) field(8, "g", [&] { out.signature(signature); });
        out.end_array(fields);
        out.align(8);
        return out.bytes() + std::string(body);
    }

    static std::string removed(const char* job, const char* result) {
        dbus::Writer body;
        body.u32(1);
        body.string(job);
        body.string("x.scope");
        body.string(result);
        return reply(0, dbus::MessageType::signal, "JobRemoved", "", "uoss", body.bytes());
    }

    std::string answer(const dbus::Message& message) {
        dbus::Writer job;
        job.string("/job/1");
        if (message.member == "StartTransientUnit") {
            if (unit_exists.exchange(false)) {
                dbus::Writer text;
                text.string("there already");
                return reply(message.serial, dbus::MessageType::error, "", "org.freedesktop.systemd1.UnitExists", "s",
                             text.bytes());
            }
            // The signal may come before the answer, beside those of other jobs.
            return removed("/job/7", "failed") + removed("/job/1", job_fails ? "failed" : "done") +
                   reply(message.serial, dbus::MessageType::method_return, "", "", "o", job.bytes());
        }
        if (message.member == "StopUnit") {
            dbus::Writer text;
            text.string("no such unit");
            return reply(message.serial, dbus::MessageType::error, "", "org.freedesktop.systemd1.NoSuchUnit", "s",
                         text.bytes());
        }
        return reply(message.serial, dbus::MessageType::method_return, "", "", "", "");
    }

    void serve() {
        // The listener does not block: it may be asked before the client is there.
        pollfd ready{listener_.get(), POLLIN, 0};
        if (::poll(&ready, 1, -1) <= 0) return;
        Fd peer(::accept(listener_.get(), nullptr, nullptr));
        if (!peer) return;
        std::string received;
        bool begun = false;
        bool answered = false;
        char buffer[4096];
        for (;;) {
            ssize_t got = ::read(peer.get(), buffer, sizeof buffer);
            if (got <= 0) return;
            received.append(buffer, static_cast<std::size_t>(got));
            if (!begun) {
                auto end = received.find("BEGIN\r\n");
                if (received.find("AUTH") != std::string::npos && !answered) {
                    // A client that begins only now may have its first message read along with BEGIN, and systemd then
                    // forgets it until the next one.
                    if (end == std::string::npos) {
                        std::lock_guard lock(mutex_);
                        bodies_["late"] = "BEGIN";
                    }
                    (void)write_all(peer.get(), "OK 0123456789abcdef\r\n");
                    answered = true;
                }
                if (end == std::string::npos) continue;
                {
                    std::lock_guard lock(mutex_);
                    bodies_["auth"] = received.substr(0, end);
                }
                received.erase(0, end + 7);
                begun = true;
            }
            for (;;) {
                auto length = dbus::message_length(received);
                if (!length || !*length || received.size() < **length) break;
                dbus::Message message = dbus::parse_message(std::string_view(received).substr(0, **length)).value();
                received.erase(0, **length);
                {
                    std::lock_guard lock(mutex_);
                    calls_.push_back(message.member);
                    bodies_[message.member] = message.body;
                }
                // In pieces, as a socket may deliver them.
                std::string text = answer(message);
                (void)write_all(peer.get(), text.substr(0, 5));
                (void)write_all(peer.get(), text.substr(5));
            }
        }
    }

    std::string path_;
    Fd listener_;
    std::thread thread_;
    std::mutex mutex_;
    std::vector<std::string> calls_;
    std::map<std::string, std::string> bodies_;
};

class Systemd : public testing::Test {
  protected:
    std::string path_ = "/tmp/wherry-systemd-test-" + std::to_string(::getpid());
    ScopeRequest request() const {
        ScopeRequest wish;
        wish.unit = "wherry-test.scope";
        wish.slice = "system.slice";
        wish.description = "a test";
        wish.pid = 4242;
        wish.limits.tasks_max = 77;
        wish.limits.cpu_quota_us_per_s = 505'000;
        return wish;
    }
};

TEST_F(Systemd, StartsAndStopsAScope) {
    FakeSystemd systemd(path_);
    {
        auto bus = SystemdBus::connect_to(path_, false);
        ASSERT_TRUE(bus) << bus.error().describe();
        auto started = bus->start_scope(request());
        ASSERT_TRUE(started) << started.error().describe();
        EXPECT_TRUE(bus->set_limits("wherry-test.scope", request().limits));
        EXPECT_TRUE(bus->stop_unit("wherry-test.scope"));
    }
    EXPECT_EQ(systemd.calls(),
              (std::vector<std::string>{"Subscribe", "StartTransientUnit", "SetUnitProperties", "StopUnit"}));
    EXPECT_NE(systemd.body_of("auth").find("AUTH EXTERNAL 3"), std::string::npos);
    EXPECT_EQ(systemd.body_of("late"), "");
    std::string body = systemd.body_of("StartTransientUnit");
    for (const char* word : {"wherry-test.scope", "system.slice", "Delegate", "PIDs", "TasksMax", "CPUQuotaPerSecUSec"})
        EXPECT_NE(body.find(word), std::string::npos) << word;
    // Rounded up to whole hundredths of a processor.
    dbus::Writer quota;
    quota.u64(510'000);
    EXPECT_NE(body.find(quota.bytes()), std::string::npos);
}

TEST_F(Systemd, ABusWantsHello) {
    FakeSystemd systemd(path_);
    {
        auto bus = SystemdBus::connect_to(path_, true);
        ASSERT_TRUE(bus) << bus.error().describe();
    }
    EXPECT_EQ(systemd.calls(), (std::vector<std::string>{"Hello", "AddMatch", "Subscribe"}));
}

TEST_F(Systemd, AFailedUnitOfTheSameNameIsReset) {
    FakeSystemd systemd(path_);
    systemd.unit_exists = true;
    {
        auto bus = SystemdBus::connect_to(path_, false);
        ASSERT_TRUE(bus) << bus.error().describe();
        EXPECT_TRUE(bus->start_scope(request()));
    }
    EXPECT_EQ(systemd.calls(),
              (std::vector<std::string>{"Subscribe", "StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"}));
}

TEST_F(Systemd, AFailedJobIsAnError) {
    FakeSystemd systemd(path_);
    systemd.job_fails = true;
    auto bus = SystemdBus::connect_to(path_, false);
    ASSERT_TRUE(bus) << bus.error().describe();
    EXPECT_FALSE(bus->start_scope(request()));
}

TEST_F(Systemd, NobodyThere) {
    EXPECT_FALSE(SystemdBus::connect_to(path_, false));
}

}  // namespace
}  // namespace wherry::confine
