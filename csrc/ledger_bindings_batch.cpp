// The tensors of a step, written from the rows of its plan and what the ledger knows of their
// slots, in one call: a decode step has no time for a few dozen of them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "ledger_bindings.h"
#include "ledger_snapshots.h"
#include "tensor_argument.h"

namespace py = pybind11;

namespace pdrt {
namespace {

// A row of a page table: the first pages of a slot, then the scratch page.
void write_pages(const LedgerMemory& memory, uint32_t slot, uint32_t num_pages, int32_t* pages,
                 int64_t width) {
  for (uint32_t i = 0; i < num_pages; ++i)
    pages[i] = static_cast<int32_t>(memory.list_of(slot)[i].get().page);
  std::fill(pages + num_pages, pages + width, 0);
}

py::array_t<int32_t> page_table(const Ledger& ledger, const std::vector<uint32_t>& slots) {
  const LedgerMemory& memory = ledger.memory();
  std::vector<uint32_t> lengths;
  uint32_t longest = 0;
  for (const uint32_t slot : slots) {
    ledger.check_slot(slot);
    lengths.push_back(get(memory.slots[slot].num_pages));
    longest = std::max(longest, lengths.back());
  }
  py::array_t<int32_t> table({slots.size(), size_t{longest}});
  int32_t* at = table.mutable_data();
  for (size_t row = 0; row < slots.size(); ++row, at += longest)
    write_pages(memory, slots[row], lengths[row], at, longest);
  return table;
}

// Positions [start, end) of a slot's tokens; the logits of the last `num_wanted` are asked for. A
// draw of the step before that the host does not know is named by its number, else that is -1.
struct BatchRow {
  uint32_t slot, start, end, num_wanted;
  int32_t draw;
};
using RowTuple = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, int32_t>;

void check_row(const Ledger& ledger, const BatchRow& row) {
  ledger.check_slot(row.slot);
  const LedgerMemory& memory = ledger.memory();
  const SlotInfo info = read_info(memory, row.slot);
  const uint32_t num_tokens = info.num_prompt_tokens + info.num_output_tokens;
  const uint32_t room = info.num_pages * ledger.geometry().page_size;
  PDRT_CHECK(row.start < row.end && row.end <= room, "slot ", row.slot, " has pages for ", room,
             " tokens; its row is [", row.start, ", ", row.end, ")");
  PDRT_CHECK(row.draw >= 0 ? row.start + 1 == row.end : row.end <= num_tokens, "slot ", row.slot,
             " has ", num_tokens, " tokens; its row is [", row.start, ", ", row.end, ")",
             row.draw >= 0 ? ", of which only one can be drawn by the step before" : "");
  PDRT_CHECK(row.num_wanted <= row.end - row.start, "slot ", row.slot, " has a row of ",
             row.end - row.start, " tokens and wants the logits of ", row.num_wanted);
}

// Writes row after row, to the tensors of pdrt.model.batch.Batch.
class BatchWriter {
 public:
  BatchWriter(const Ledger& ledger, py::handle batch)
      : memory_(ledger.memory()),
        geometry_(ledger.geometry()),
        input_ids_("input_ids", py::object(batch.attr("input_ids"))),
        positions_("positions", py::object(batch.attr("positions"))),
        slot_mapping_("slot_mapping", py::object(batch.attr("slot_mapping"))),
        page_table_("page_table", py::object(batch.attr("page_table"))),
        cu_seqlens_q_("cu_seqlens_q", py::object(batch.attr("cu_seqlens_q"))),
        seq_lens_("seq_lens", py::object(batch.attr("seq_lens"))),
        wanted_("wanted", py::object(batch.attr("wanted"))) {}

  void check(const std::vector<BatchRow>& rows) const {
    int64_t num_tokens = 0, num_wanted = 0;
    uint32_t longest = 0;
    for (const BatchRow& row : rows) {
      num_tokens += row.end - row.start;
      num_wanted += row.num_wanted;
      longest = std::max(longest, geometry_.pages_of(row.end));
    }
    const auto num_rows = static_cast<int64_t>(rows.size());
    for (const auto* each : {&input_ids_, &positions_, &slot_mapping_})
      each->check_whole(Dtype::kInt32, {num_tokens});
    page_table_.check_dims(2, "[num_rows, max_pages]");
    PDRT_CHECK(page_table_.size(1) >= int64_t{longest}, "page_table has ", page_table_.size(1),
               " columns; the longest row has ", longest, " pages");
    page_table_.check_whole(Dtype::kInt32, {num_rows, page_table_.size(1)});
    cu_seqlens_q_.check_whole(Dtype::kInt32, {num_rows + 1});
    seq_lens_.check_whole(Dtype::kInt32, {num_rows});
    wanted_.check_whole(Dtype::kInt64, {num_wanted});
  }

  void write(const std::vector<BatchRow>& rows) {
    *cu_seqlens_q_.data<int32_t>() = 0;
    for (const BatchRow& row : rows) {
      int32_t* pages = page_table_.data<int32_t>() + num_rows_ * page_table_.size(1);
      write_pages(memory_, row.slot, geometry_.pages_of(row.end), pages, page_table_.size(1));
      write_tokens(row, pages);
      ++num_rows_;
      seq_lens_.data<int32_t>()[num_rows_ - 1] = static_cast<int32_t>(row.end);
      cu_seqlens_q_.data<int32_t>()[num_rows_] = static_cast<int32_t>(num_tokens_);
      for (int64_t i = num_tokens_ - row.num_wanted; i < num_tokens_; ++i)
        wanted_.data<int64_t>()[num_wanted_++] = i;
    }
  }

 private:
  void write_tokens(const BatchRow& row, const int32_t* pages) {
    const std::atomic<int32_t>* tokens = memory_.tokens_of(row.slot);
    const uint32_t page_size = geometry_.page_size;
    for (uint32_t position = row.start; position < row.end; ++position, ++num_tokens_) {
      input_ids_.data<int32_t>()[num_tokens_] =
          row.draw < 0 ? tokens[position].load(std::memory_order_relaxed) : ~row.draw;
      positions_.data<int32_t>()[num_tokens_] = static_cast<int32_t>(position);
      slot_mapping_.data<int32_t>()[num_tokens_] =
          static_cast<int32_t>(pages[position / page_size] * page_size + position % page_size);
    }
  }

  const LedgerMemory& memory_;
  const Geometry& geometry_;
  const TensorArgument input_ids_, positions_, slot_mapping_, page_table_, cu_seqlens_q_, seq_lens_,
      wanted_;
  int64_t num_rows_ = 0, num_tokens_ = 0, num_wanted_ = 0;  // written
};

void write_batch(const Ledger& ledger, const std::vector<RowTuple>& tuples, py::handle batch) {
  std::vector<BatchRow> rows;
  rows.reserve(tuples.size());
  for (const RowTuple& tuple : tuples) {
    rows.push_back(std::make_from_tuple<BatchRow>(tuple));
    check_row(ledger, rows.back());
  }
  BatchWriter writer(ledger, batch);
  writer.check(rows);
  writer.write(rows);
}

}  // namespace

void bind_batch(LedgerClass& cls) {
  cls.def("page_table", &page_table, py::arg("slots"))
      .def("write_batch", &write_batch, py::arg("rows"), py::arg("batch"));
}

}  // namespace pdrt
