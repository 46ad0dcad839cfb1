// The daemon's figures for Prometheus: served on an address, and written to a file for node_exporter. collect() is called by the server's
// threads, everything else by the daemon's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include "api/tracker.hpp"
#include "base/result.hpp"
#include "service/control/server.hpp"
#include "service/log/event_log.hpp"
#include "service/monitor/monitor.hpp"

namespace fdspan::service {

// What was counted since the daemon started.
struct EventCounts {
    std::array<std::uint64_t, 16> by_kind{};  // EventKind
    std::uint64_t lost_records = 0;
};

// A label's value: UTF-8, and another for each name. The caller of the library knows how its users see names elsewhere.
using EscapeName = std::function<std::string(std::string_view)>;

class Metrics : public prometheus::Collectable {
public:
    // Labels have few values: file systems beyond this many are "other".
    static constexpr std::size_t max_filesystems = 20;

    explicit Metrics(EscapeName escape) : escape_(std::move(escape)) {}

    struct Inputs {
        const Monitor::Figures& figures;
        const IndexCounts& index;
        const TrackerStatistics& tracker;
        const EventCounts& events;
        const LogStatus& log;
        const ControlCounts& control;
        std::string_view backend;
        std::uint64_t started_ns;
    };
    void update(const Inputs& inputs);
    [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

    // Whole or not at all, readable by everybody; without what node_exporter has of itself.
    Result<void> write_textfile(const std::string& path) const;

private:
    EscapeName escape_;
    mutable std::mutex mutex_;
    std::vector<prometheus::MetricFamily> families_;
};

// What is not written any more would be scraped for ever.
void remove_textfile(const std::string& path);

// Serves them until it goes. `address` as "127.0.0.1:9731".
[[nodiscard]] Result<std::unique_ptr<prometheus::Exposer>> serve_metrics(const std::string& address, const std::shared_ptr<Metrics>& metrics);

}  // namespace fdspan::service
