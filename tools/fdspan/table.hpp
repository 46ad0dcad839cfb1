// A table of finished cells, for what has few rows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "columns.hpp"
#include "output.hpp"

namespace fdspan::cli {

struct TableColumn {
    std::string_view name;
    Align align = Align::left;
    Shrink shrink = Shrink::never;
};

// Cells are escaped already; an empty one is shown as "-". On a terminal the widest columns that may shrink give way.
void print_cells(Output& output, const std::vector<TableColumn>& columns, const std::vector<std::vector<std::string>>& rows, bool headings, const Palette& color);

}  // namespace fdspan::cli
