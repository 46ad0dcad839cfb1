// IteratorReader: snapshots through BPF iterators (iter/task_file, iter/task_vma, iter/task).
#pragma once

#include <memory>

#include "base/result.hpp"
#include "kernel/parcel.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {

// Descriptors of the kernel maps that hold exact times (bpf/wire.h); borrowed, -1 where there are none.
struct TimeMaps {
    int descriptions = -1;
    int descriptors = -1;
    int tables = -1;
    int table_chunks = -1;
    int settings = -1;   // holds the key of the pointer permutation
    int counters = -1;
    [[nodiscard]] bool present() const { return descriptions >= 0; }
};

// What a sweep found. An entry is one key of one of the four maps.
struct SweepResult {
    std::uint64_t kept = 0;
    std::uint64_t deleted = 0;
    std::uint64_t stale = 0;  // left although what they speak of is dead: 0 unless it dies faster than the sweep goes round
};

// Owns the loaded iterator programs. Loads once, reads often. One thread at a time per reader.
// Shows the pids of the reader's pid namespace, and of all processes in it, whoever may read them through /proc.
class IteratorReader {
public:
    // Fails with the errno of the load (EPERM: capability, ENOENT: no BTF, EINVAL: kernel too old), the message says which.
    // kinds (1 << RefKind each): what reads will ask for; each kind of program that is not needed saves its verification.
    // with_hidden: also what SnapshotRequest::hidden takes; EINVAL without maps.
    static Result<std::unique_ptr<IteratorReader>> open(const TimeMaps& maps, std::uint8_t kinds = 0xff, bool with_hidden = false);
    // The loaded programs, those of sweep() too, as descriptors; and a reader made of such by somebody who need not have any
    // capability. Reads and sweeps of the two may not run at the same time: they share what tells the programs whom to look at.
    [[nodiscard]] Result<void> give(Parcel& parcel);
    static Result<std::unique_ptr<IteratorReader>> adopt(Parcel& parcel, const TimeMaps& maps);
    ~IteratorReader();
    IteratorReader(const IteratorReader&) = delete;
    IteratorReader& operator=(const IteratorReader&) = delete;

    // census: also enters what the maps do not know yet ("open at this time"), so that later snapshots can bound it.
    // Fails with ENOTSUP for a census without maps.
    [[nodiscard]] Result<Snapshot> read(const SnapshotRequest& request, bool census = false);

    // Loads what sweep() needs, which it does by itself the first time: for callers who give up their privileges.
    [[nodiscard]] Result<void> prepare_sweep();

    // Deletes from the maps what speaks of dead objects and is older than this call: descriptions whose struct file is dead or another
    // file's by now, tables that no task has, descriptors that hold another file. What only might be dead is kept: a leftover entry
    // is never taken as evidence (bpf/maps.bpf.h), a missing one costs an exact time. ENOTSUP without maps.
    [[nodiscard]] Result<SweepResult> sweep();

private:
    struct State;
    explicit IteratorReader(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace fdspan
