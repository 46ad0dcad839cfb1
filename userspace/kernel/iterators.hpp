// IteratorReader: snapshots through BPF iterators (iter/task_file, iter/task_vma, iter/task).
#pragma once

#include <memory>

#include "base/result.hpp"
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

// Owns the loaded iterator programs. Loads once, reads often. One thread at a time per reader.
class IteratorReader {
public:
    // Fails with the errno of the load (EPERM: capability, ENOENT: no BTF, EINVAL: kernel too old), the message says which.
    static Result<std::unique_ptr<IteratorReader>> open(const TimeMaps& maps);
    ~IteratorReader();
    IteratorReader(const IteratorReader&) = delete;
    IteratorReader& operator=(const IteratorReader&) = delete;

    // census: also enters what the maps do not know yet ("open at this time"), so that later snapshots can bound it.
    [[nodiscard]] Result<Snapshot> read(const SnapshotRequest& request, bool census = false);

private:
    struct State;
    explicit IteratorReader(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace fdspan
