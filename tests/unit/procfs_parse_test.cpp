#include <sys/mman.h>

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "cpu_time.hpp"
#include "snapshot/procfs_mounts.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

std::string stat_text(const std::string& comm, const std::string& state = "S") {
    return "4242 (" + comm + ") " + state +
           " 17 4242 4242 0 -1 4194304 158 0 0 0 3 1 0 0 20 0 5 0 123456 2568192 312 18446744073709551615 1 1 0 0 0\n";
}

std::string decoded(std::string_view text) {
    std::string out;
    decode_octal(text, out);
    return out;
}

}  // namespace

TEST_CASE("a stat line's comm may hold parentheses, spaces and newlines") {
    for (const std::string comm : {"nginx", "a) R 1 (b", ")", "", "x\n1 (y) Z", ") S 1 2 3", "\xff\xfe", "((("}) {
        const std::string text = stat_text(comm);
        const auto line = parse_stat(text);
        REQUIRE(line);
        CHECK(line->comm == comm);
        CHECK(line->pid == 4242);
        CHECK(line->ppid == 17);
        CHECK(line->state == 'S');
        CHECK(line->task_flags == 4194304);
        CHECK(line->threads == 5);
        CHECK(line->start_ticks == 123456);
    }
}

TEST_CASE("a stat line that is cut or torn is refused") {
    const std::string whole = stat_text("nginx");
    const std::size_t behind_start_time = whole.find("123456") + 6;
    for (std::size_t length = 0; length < behind_start_time - 5; ++length) CHECK_FALSE(parse_stat(whole.substr(0, length)));
    CHECK(parse_stat(whole.substr(0, behind_start_time)));
    CHECK_FALSE(parse_stat("x (y) S 1"));
    CHECK_FALSE(parse_stat("1 (y S 1 1 1 1 1 1 1"));
    CHECK_FALSE(parse_stat("1 (y)S 17 4242 4242 0 -1 4194304 158 0 0 0 3 1 0 0 20 0 5 0 123456 2568192"));
    CHECK_FALSE(parse_stat("99999999999999999999 (y) S 17 4242 4242 0 -1 4194304 158 0 0 0 3 1 0 0 20 0 5 0 123456 2"));
    CHECK_FALSE(parse_stat("1 (y) S 17 4242 4242 0 -1 4194304 158 0 0 0 3 1 0 0 20 0 5 0 12x456 2"));
}

TEST_CASE("status gives the thread group and the real user") {
    const auto ids = parse_status("Name:\tx\\nUid:\t0\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t812\nPid:\t812\nUid:\t1000\t0\t0\t0\n");
    REQUIRE(ids);
    CHECK(ids->tgid == 812);
    CHECK(ids->uid == 1000);
    CHECK_FALSE(parse_status("Tgid:\t812\n"));
    CHECK_FALSE(parse_status("Tgid:\t\nUid:\t0\n"));
    CHECK_FALSE(parse_status(""));
}

TEST_CASE("fdinfo flags are octal and include close-on-exec") {
    const auto info = parse_fdinfo("pos:\t4096\nflags:\t02100002\nmnt_id:\t27\nino:\t1038\neventfd-count: 0\n");
    REQUIRE(info);
    CHECK(info->pos == 4096);
    CHECK(info->flags == 02100002);
    CHECK(info->mnt_id == 27);
    CHECK(info->ino == 1038U);
}

TEST_CASE("fdinfo of old kernels has no inode, and a position may be negative") {
    const auto info = parse_fdinfo("pos:\t-1\nflags:\t0100000\n");
    REQUIRE(info);
    CHECK(info->pos == UINT64_MAX);
    CHECK(info->mnt_id == -1);
    CHECK_FALSE(info->ino);
}

TEST_CASE("fdinfo lines of the file's own type are not taken for the common ones") {
    const auto info = parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t3\nino:\t77\nflags:\t0777\n");
    REQUIRE(info);
    CHECK(info->ino == 3U);
    CHECK(info->flags == 2);
    CHECK_FALSE(parse_fdinfo("pos:\tx\nflags:\t02\n"));
    CHECK_FALSE(parse_fdinfo("pos:\t0\nflags:\t9\n"));
    CHECK_FALSE(parse_fdinfo("flags:\t02\n"));
    CHECK_FALSE(parse_fdinfo(""));
}

TEST_CASE("a maps line gives range, protection, device, inode and path") {
    const auto map = parse_maps_line("7f79086-7f79087 rw-s 00001000 fe:1f 10969428                   /tmp/a b");
    REQUIRE(map);
    CHECK(map->start == 0x7f79086);
    CHECK(map->end == 0x7f79087);
    CHECK(map->protection == (PROT_READ | PROT_WRITE));
    CHECK(map->shared);
    CHECK(map->offset == 0x1000);
    CHECK(map->dev == DeviceNumber{0xfe, 0x1f});
    CHECK(map->ino == 10969428);
    CHECK(map->path == "/tmp/a b");
    CHECK(map->has_file());
}

TEST_CASE("maps paths keep trailing spaces, colons, carriage returns and bytes that are no text") {
    for (const std::string path : {"/tmp/a ", "/tmp/ \t:\r", "/tmp/\xff\x80", "/x (deleted)", "/x (deleted) (deleted)", "/tmp/a\\012b", "/ (deleted)"}) {
        const std::string text = "1000-2000 r-xp 00000000 fe:00 1                          " + path;
        const auto map = parse_maps_line(text);
        REQUIRE(map);
        CHECK(map->path == path);
        CHECK(map->protection == (PROT_READ | PROT_EXEC));
        CHECK_FALSE(map->shared);
    }
}

TEST_CASE("SysV shared memory has a file although its inode number may be 0, heap and stack have none") {
    CHECK(parse_maps_line("1000-2000 rw-s 00000000 00:01 0                          /SYSV00000000 (deleted)")->has_file());
    CHECK_FALSE(parse_maps_line("1000-2000 rw-p 00000000 00:00 0                          [heap]")->has_file());
    CHECK_FALSE(parse_maps_line("1000-2000 rw-p 00000000 00:00 0 ")->has_file());
    CHECK_FALSE(parse_maps_line("1000-2000 rw-p 00000000 00:00 0")->has_file());
}

TEST_CASE("a maps line with anything missing is refused") {
    for (const char* line : {"", "1000", "1000-", "1000-2000", "1000-2000 rw-p", "1000-2000 rw-p 0", "1000-2000 rw-p 0 fe", "1000-2000 rw-p 0 fe:00",
                             "1000-2000 rw-p 0 fe:00 x", "2000-1000 rw-p 0 fe:00 1", "1000-2000 rw-x 0 fe:00 1", "1000-2000 rw-p 0 fe:00 1/x",
                             "11111111111111111-2 rw-p 0 fe:00 1 /x", " 1000-2000 rw-p 0 fe:00 1"}) {
        INFO(line);
        CHECK_FALSE(parse_maps_line(line));
    }
}

TEST_CASE("octal escapes are undone, and a backslash that begins none stays") {
    CHECK(decoded("/a\\012b\\040c\\134d\\011") == "/a\nb c\\d\t");
    CHECK(decoded("\\\\012") == "\\\n");
    CHECK(decoded("\\") == "\\");
    CHECK(decoded("\\01") == "\\01");
    CHECK(decoded("\\018") == "\\018");
    CHECK(decoded("\\777") == "\\777");
    CHECK(decoded("\\377\\000") == "\xff\0"s);
    CHECK(decoded("") == "");
}

TEST_CASE("in a path of maps only a newline is escaped") {
    const auto decoded_map = [](std::string_view text) {
        std::string out = "old";
        decode_newlines(text, out);
        return out;
    };
    CHECK(decoded_map("/a\\012b\\012") == "/a\nb\n");
    CHECK(decoded_map("/m\\101b\\040\\134\\011") == "/m\\101b\\040\\134\\011");
    CHECK(decoded_map("\\\\012") == "\\\n");
    CHECK(decoded_map("\\0\\01212") == "\\0\n12");
    CHECK(decoded_map("\\01") == "\\01");
    CHECK(decoded_map("") == "");
}

TEST_CASE("a mountinfo line may have any number of optional fields") {
    for (const std::string optional : {"", "shared:1 ", "shared:1 master:2 propagate_from:3 ", "unbindable "}) {
        const std::string text = "36 35 98:1 /mnt1 /mnt\\0402 rw,noatime " + optional + "- ext3 /dev/root rw,errors=continue";
        const auto mount = parse_mountinfo_line(text);
        REQUIRE(mount);
        CHECK(mount->id == 36);
        CHECK(mount->parent == 35);
        CHECK(mount->dev == DeviceNumber{98, 1});
        CHECK(mount->root == "/mnt1");
        CHECK(mount->mount_point == "/mnt\\0402");
        CHECK(mount->type == "ext3");
    }
    CHECK_FALSE(parse_mountinfo_line("36 35 98:1 /mnt1 /mnt2 rw,noatime shared:1"));
    CHECK_FALSE(parse_mountinfo_line("36 35 98:1 /mnt1 /mnt2 rw -"));
    CHECK_FALSE(parse_mountinfo_line("36 35 98 /mnt1 /mnt2 rw - ext3"));
    CHECK_FALSE(parse_mountinfo_line(""));
}

TEST_CASE("a path is on what is mounted deepest on its way, and on top there") {
    MountTable table;
    CHECK(table.parse("1 0 8:1 / / rw - ext4 /dev/a rw\n"
                      "2 1 0:50 / /net rw - nfs4 server:/ rw\n"
                      "3 2 8:2 / /net/disk rw - ext4 /dev/b rw\n"
                      "4 1 0:51 / /sp\\040ace rw - fuse.sshfs s rw\n"
                      "nonsense\n") == 1);
    for (const auto& [path, id] : {std::pair{"/etc/passwd", 1}, {"/network/x", 1}, {"/net", 2}, {"/net/x", 2}, {"/net/disk", 3}, {"/net/disk/x", 3},
                                   {"/net/disks", 2}, {"/sp ace/x", 4}, {"/", 1}}) {
        INFO(path);
        REQUIRE(table.mount_of(path) != nullptr);
        CHECK(table.mount_of(path)->id == id);
    }
    CHECK(MountTable{}.mount_of("/etc") == nullptr);
    MountTable rootless;
    CHECK(rootless.parse("1 0 8:1 / /mnt rw - ext4 /dev/a rw\n") == 0);
    CHECK(rootless.mount_of("/mnt/x") == nullptr);
}

TEST_CASE("of mounts over one another, and of those whose names begin alike, the right one is found") {
    MountTable table;
    CHECK(table.parse("1 0 8:1 / / rw - ext4 /dev/a rw\n"
                      "2 1 0:50 / /a/b rw - nfs4 server:/ rw\n"
                      "3 1 8:2 / /a/b rw - ext4 /dev/b rw\n"
                      "4 1 8:3 / /a rw - ext4 /dev/c rw\n"
                      "5 1 0:51 / /a!b rw - nfs4 server:/ rw\n"
                      "6 1 0:52 / /a/bc/d rw - nfs4 server:/ rw\n") == 0);
    for (const auto& [path, id] : {std::pair{"/a", 4}, {"/a/", 4}, {"/a/bc", 4}, {"/a/bc/de/f", 4}, {"/a!", 1}, {"/a!bc", 1}, {"/a/b", 3}, {"/a/b/", 3},
                                   {"/a/b/c", 3}, {"/a!b", 5}, {"/a!b/c", 5}, {"/a/bc/d", 6}, {"/a/bc/d//e", 6}}) {
        INFO(path);
        REQUIRE(table.mount_of(path) != nullptr);
        CHECK(table.mount_of(path)->id == id);
    }
}

TEST_CASE("what a walk costs does not grow with the mounts beside its way") {
    const auto walks_s = [](int mounts) {
        std::string text = "1 0 0:1 / / rw - tmpfs t rw\n";
        for (int i = 0; i < mounts; ++i) text += "2 1 0:1 / /m" + std::to_string(i) + " rw - tmpfs t rw\n";
        MountTable table;
        REQUIRE(table.parse(text) == 0);
        return least_cpu_s([&] {
            for (int i = 0; i < 1000; ++i) static_cast<void>(table.mount_of("/layers/" + std::to_string(i)));
        });
    };
    CHECK(walks_s(10'000) < 8 * walks_s(50));
}

TEST_CASE("an overlayfs is as local as its layers, where the reader sees them; what others say of theirs is not believed") {
    MountTable host;
    CHECK(host.parse("1 0 8:1 / / rw - ext4 /dev/a rw\n"
                     "2 1 0:50 / /net rw - nfs4 server:/ rw\n"
                     "3 1 0:60 / /merged rw - overlay overlay rw,lowerdir=/l/a:/l/b\\:c,upperdir=/u,workdir=/w,xino=off\n"
                     "4 1 0:61 / /remote rw - overlay overlay rw,lowerdir=/l/a:/net/b,upperdir=/u\n"
                     "5 1 0:62 / /relative rw - overlay overlay rw,lowerdir=l/a,upperdir=/u\n"
                     "6 1 0:63 / /stacked rw - overlay overlay rw,lowerdir+=/merged/x,datadir+=/l\n"
                     "7 1 0:64 / /none rw - overlay overlay rw\n") == 0);
    const auto local = [](const MountTable& table) {
        std::vector<std::int32_t> ids;
        for (const Mount& mount : table.mounts()) {
            if (mount.traits.local) ids.push_back(mount.id);
        }
        return ids;
    };
    using Ids = std::vector<std::int32_t>;
    CHECK(local(host) == Ids{1});
    CHECK(host.mounts()[2].layers == std::vector<std::string>{"/l/a", "/l/b:c", "/u"});
    MountTable container;
    CHECK(container.parse("9 0 0:60 / / rw - overlay overlay rw,lowerdir=/l/a:/l/b,upperdir=/u,workdir=/w\n"
                          "10 9 0:61 / /remote rw - overlay overlay rw,lowerdir=/l\n"
                          "11 9 8:1 /tmp /tmp rw - ext4 /dev/a rw\n"
                          "12 11 0:70 / /tmp/theirs rw - overlay overlay rw,lowerdir=/tmp/a,upperdir=/tmp/b\n") == 0);
    CHECK(local(container) == Ids{11});
    Mounts mounts;
    CHECK(local(mounts.add({1, 1, 1}, host, Mounts::Whose::own)) == Ids{1, 3, 6});
    CHECK(local(mounts.add({2, 1, 1}, container, Mounts::Whose::others)) == Ids{9, 11});
}

TEST_CASE("the layers of an overlayfs are read as Linux 6.18 shows them, and an option without a value is no layer") {
    MountTable table;
    // Made with fsconfig(2) and, the third, mount(2).
    CHECK(table.parse("1 0 0:41 / /m rw - overlay none rw,lowerdir+=/t/l\\054x,lowerdir+=/t/l:x,lowerdir+=/t/l\\134x,upperdir=/t/a\\054b,workdir=/w\n"
                      "2 0 0:43 / /m rw - overlay none ro,lowerdir=/t/l\\134:x:/t/l\\054x:/t/l\\134\\134x,upperdir=/t/a:b,redirect_dir=on\n"
                      "3 0 0:48 / /m rw - overlay o rw,lowerdir=/t/l\\134:x:/t/l\\134\\054x:/t/l\\134\\134x,upperdir=/t/a\\134\\134b,workdir=/w\n"
                      "4 0 0:49 / /m rw - overlay o rw,upperdir\n"
                      "5 0 0:50 / /m rw - overlay o upperdir,lowerdir=/a::/b,lowerdir\n") == 0);
    using Layers = std::vector<std::string>;
    CHECK(table.mounts()[0].layers == Layers{"/t/l,x", "/t/l:x", "/t/l\\x", "/t/a,b"});
    CHECK(table.mounts()[1].layers == Layers{"/t/l:x", "/t/l,x", "/t/l\\x", "/t/a:b"});
    CHECK(table.mounts()[2].layers == Layers{"/t/l:x", "/t/l,x", "/t/l\\x", "/t/a\\b"});
    CHECK(table.mounts()[3].layers.empty());
    CHECK(table.mounts()[4].layers == Layers{"/a", "/b"});
}

TEST_CASE("the names that NFS gives to files that are deleted while open are known") {
    CHECK(is_silly_name("/srv/.nfs0000000000c0ffee00000001"));
    CHECK_FALSE(is_silly_name("/srv/.nfs0000000000c0ffee0000000"));
    CHECK_FALSE(is_silly_name("/srv/.nfs0000000000c0ffee0000000g"));
    CHECK_FALSE(is_silly_name("/srv/xnfs0000000000c0ffee00000001"));
    CHECK_FALSE(is_silly_name(""));
}

TEST_CASE("the cgroup of version 2 is preferred unless it is the root") {
    CHECK(choose_cgroup("9:name=systemd:/a\n4:memory:/a/long/one\n0::/two\n").path == "/two");
    CHECK(choose_cgroup("9:name=systemd:/a\n4:memory:/a/long/one\n0::/\n").path == "/a");
    CHECK(choose_cgroup("9:name=systemd:/\n4:memory:/a/long/one\n3:cpu:/a\n0::/\n").path == "/a/long/one");
    CHECK(choose_cgroup("0::/\n").path == "/");
    CHECK(choose_cgroup("0::/a:b:c\n").path == "/a:b:c");
    CHECK(choose_cgroup("").path.empty());
    const auto odd = choose_cgroup("x\n0::relative\n:\n0::/good");
    CHECK(odd.path == "/good");
    CHECK(odd.unparsed_lines == 3);
}

TEST_CASE("container hints come from the cgroup path's innermost container") {
    const std::string id = "3f2a1bc4d5e6f708192a3b4c5d6e7f803f2a1bc4d5e6f708192a3b4c5d6e7f80";
    CHECK(container_hint("/system.slice/docker-" + id + ".scope") == "docker:3f2a1bc4d5e6");
    CHECK(container_hint("/docker/" + id) == "docker:3f2a1bc4d5e6");
    CHECK(container_hint("/docker/" + id + "/system.slice/x.service") == "docker:3f2a1bc4d5e6");
    CHECK(container_hint("/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope") == "containerd:3f2a1bc4d5e6");
    CHECK(container_hint("/kubepods/besteffort/pod77/" + id) == "kubernetes:3f2a1bc4d5e6");
    CHECK(container_hint("/machine.slice/libpod-" + id + ".scope/container") == "podman:3f2a1bc4d5e6");
    CHECK(container_hint("/lxc.payload.web") == "lxc:web");
    CHECK(container_hint("/lxc/web/init.scope") == "lxc:web");
    CHECK(container_hint("/machine.slice/machine-de\\x2dbian.scope/payload") == "machine:de-bian");
    CHECK(container_hint("/machine.slice/systemd-nspawn@web.service/payload") == "machine:web");
    CHECK(container_hint("/lxc.payload.outer/docker/" + id) == "docker:3f2a1bc4d5e6");
}

TEST_CASE("what only resembles a container gives no hint") {
    for (const char* path : {"/", "", "/system.slice/docker.service", "/docker/buildx", "/user.slice/user-0.slice", "/system.slice/docker-.scope",
                             "/machine.slice/libpod-conmon-3f2a1bc4d5e6f708192a3b4c5d6e7f803f2a1bc4d5e6f708192a3b4c5d6e7f80.scope",
                             "/3f2a1bc4d5e6f708192a3b4c5d6e7f803f2a1bc4d5e6f708192a3b4c5d6e7f80", "/machine.slice/machine-.scope", "/lxc.payload."}) {
        INFO(path);
        CHECK(container_hint(path).empty());
    }
}

TEST_CASE("the text of a magic link says what kind of object it is") {
    CHECK(parse_link("/etc/passwd").form == LinkForm::path);
    CHECK(parse_link("socket:[17]").form == LinkForm::socket);
    CHECK(parse_link("socket:[17]").ino == 17U);
    CHECK(parse_link("pipe:[18]").form == LinkForm::pipe);
    CHECK(parse_link("anon_inode:[eventpoll]").form == LinkForm::anon);
    CHECK(parse_link("anon_inode:[eventpoll]").class_name == "eventpoll");
    CHECK(parse_link("anon_inode:inotify").class_name == "inotify");
    CHECK(parse_link("anon_inode:[io_uring]").class_name == "io_uring");
    CHECK(parse_link("anon_inode:bpf-map").class_name == "bpf-map");
    CHECK(parse_link("pidfd:[9]").form == LinkForm::anon);
    CHECK(parse_link("pidfd:[9]").class_name == "pidfd");
    CHECK(parse_link("anon_inode:[pidfd]").class_name == "pidfd");
    CHECK(parse_link("net:[4026531833]").form == LinkForm::other);
    CHECK(parse_link("net:[4026531833]").class_name == "net");
    CHECK(parse_link("socket:[x]").form == LinkForm::other);
    CHECK(parse_link("socket:").form == LinkForm::other);
    CHECK(parse_link("").form == LinkForm::other);
}

TEST_CASE("the deleted mark is only seen at the very end, and only one is taken off") {
    CHECK(parse_link("/a (deleted)").ends_in_mark);
    CHECK_FALSE(parse_link("/a (deleted) ").ends_in_mark);
    CHECK_FALSE(parse_link("/a(deleted)").ends_in_mark);
    CHECK_FALSE(parse_link(" (deleted)").ends_in_mark);
    CHECK(without_mark("/a (deleted) (deleted)") == "/a (deleted)");
    CHECK(without_mark("/a") == "/a");
}

TEST_CASE("an O_TMPFILE name is a number sign and the inode number") {
    CHECK(is_tmpfile_name("/tmp/#10952778", 10952778));
    CHECK(is_tmpfile_name("/#1", 1));
    CHECK_FALSE(is_tmpfile_name("/tmp/#10952778", 1));
    CHECK_FALSE(is_tmpfile_name("/tmp/#", 0));
    CHECK_FALSE(is_tmpfile_name("/tmp/#1x", 1));
    CHECK_FALSE(is_tmpfile_name("", 0));
}
