#include "table.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "text.hpp"

namespace fdspan::cli {

void print_cells(Output& output, const std::vector<TableColumn>& columns, const std::vector<std::vector<std::string>>& rows, bool headings, const Palette& color) {
    constexpr std::size_t least_width = 8;
    const auto shown = [](const std::string& cell) { return cell.empty() ? std::string("-") : cell; };
    std::vector<std::size_t> widths;
    for (std::size_t at = 0; at < columns.size(); ++at) {
        std::size_t width = headings ? columns[at].name.size() : 1;
        for (const auto& row : rows) width = std::max(width, display_width(shown(row[at])));
        widths.push_back(width);
    }
    const std::size_t line_width = stdout_is_terminal() ? terminal_width() : std::numeric_limits<std::size_t>::max();
    while (std::accumulate(widths.begin(), widths.end(), widths.size() - 1) > line_width) {
        std::size_t widest = widths.size();
        for (std::size_t at = 0; at < widths.size(); ++at) {
            if (columns[at].shrink == Shrink::never || widths[at] <= least_width) continue;
            if (widest == widths.size() || widths[at] > widths[widest]) widest = at;
        }
        if (widest == widths.size()) break;
        --widths[widest];
    }
    std::string& out = output.buffer();
    const auto line = [&](const std::vector<std::string>& cells, std::string_view style) {
        out += style;
        for (std::size_t at = 0; at < columns.size(); ++at) {
            std::string cell = shown(cells[at]);
            if (columns[at].shrink == Shrink::middle) cell = shorten_middle(cell, widths[at]);
            if (columns[at].shrink == Shrink::end) cell = shorten_end(cell, widths[at]);
            const std::size_t width = display_width(cell);
            const std::size_t padding = widths[at] - std::min(widths[at], width);
            if (at > 0) out += ' ';
            if (columns[at].align == Align::right) out.append(padding, ' ');
            out += cell;
            if (columns[at].align == Align::left && at + 1 < columns.size()) out.append(padding, ' ');
        }
        if (!style.empty()) out += color.reset;
        out += '\n';
        output.written();
    };
    if (headings) {
        std::vector<std::string> names;
        for (const TableColumn& column : columns) names.emplace_back(column.name);
        line(names, color.bold);
    }
    for (const auto& row : rows) line(row, {});
}

}  // namespace fdspan::cli
