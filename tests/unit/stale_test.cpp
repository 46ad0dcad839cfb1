// What a control group says about what has to be restarted, and words that a shell takes for one.
#include "api/stale.hpp"

#include "explain.hpp"

using namespace fdspan;
using namespace fdspan::cli;

TEST_CASE("a service is the innermost unit of the control group") {
    const auto is = [](std::string_view cgroup, ServiceKind kind, std::string_view name, std::string_view restart) {
        const ServiceName service = service_of(cgroup, {});
        INFO(cgroup);
        CHECK(service.kind == kind);
        CHECK(service.name == name);
        CHECK(restart_command(service) == restart);
    };
    is("/system.slice/nginx.service", ServiceKind::system, "nginx.service", "systemctl restart nginx.service");
    is("/system.slice/system-getty.slice/getty@tty1.service", ServiceKind::system, "getty@tty1.service", "systemctl restart getty@tty1.service");
    is("/system.slice/nginx.service/workers", ServiceKind::system, "nginx.service", "systemctl restart nginx.service");
    is("/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", ServiceKind::user, "syncthing.service",
       "systemctl --user -M 1000@ restart syncthing.service");
    is("/user.slice/user-1000.slice/user@1000.service/init.scope", ServiceKind::session, "user@1000.service", "");
    is("/user.slice/user-1000.slice/session-3.scope", ServiceKind::session, "session-3.scope", "");
    is("/init.scope", ServiceKind::manager, "init.scope", "systemctl daemon-reexec");
    is("/", ServiceKind::none, "", "");
    is("", ServiceKind::none, "", "");
    is("/system.slice", ServiceKind::none, "", "");
}

TEST_CASE("a container is restarted as a whole, whatever runs in it") {
    const ServiceName service = service_of("/system.slice/docker-3f2a.scope/system.slice/nginx.service", "docker:3f2a");
    CHECK(service.kind == ServiceKind::container);
    CHECK(service.name == "docker:3f2a");
    CHECK(restart_command(service).empty());
}

TEST_CASE("a word for the shell is one word on one harmless line") {
    CHECK(shell_quote("/proc/1/fd/2") == "/proc/1/fd/2");
    CHECK(shell_quote("") == "''");
    CHECK(shell_quote("~") == "'~'");
    CHECK(shell_quote("a b") == "'a b'");
    CHECK(shell_quote("it's") == "'it'\\''s'");
    CHECK(shell_quote("$(rm -rf /)`x`\\") == "'$(rm -rf /)`x`\\'");
    CHECK(shell_quote("a\nb") == "$'a\\012b'");
    CHECK(shell_quote("\x1b[31m'\\") == "$'\\033[31m\\'\\\\'");
    CHECK(shell_quote("\xff") == "$'\\377'");
    CHECK(shell_quote("gr\xc3\xbc\xc3\x9f") == "'gr\xc3\xbc\xc3\x9f'");
}
