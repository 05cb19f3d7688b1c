// Copy on write for checkpoints; see snapshot.h. Called by Python itself, without TensorFlow.

#include "snapshot.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace lazytower {
namespace {

constexpr int64_t kAsideRecords = 64;  // records that are set aside in one piece of memory
constexpr int64_t kReadRows = 256;     // that are read before an update may take its turn
constexpr int64_t kReadAhead = 8;      // how many rows ahead of the current one to prefetch

std::mutex registered_mu;

std::vector<std::shared_ptr<Snapshot>>& Registered() {
  static auto* const snapshots = new std::vector<std::shared_ptr<Snapshot>>;
  return *snapshots;
}

void FetchRecord(const float* record, int64_t width) {
  for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(record + j);
}

}  // namespace

Snapshot::Snapshot(const float* records, int64_t rows, int64_t width, const int64_t* ids, int64_t number,
                   int64_t piece, std::shared_ptr<Aside> aside)
    : records_(records), width_(width), piece_(piece), number_(ids == nullptr ? rows : number),
      all_(ids == nullptr), ids_(ids, ids == nullptr ? ids : ids + number), aside_(std::move(aside)) {
  pending_.assign((rows + 63) / 64, all_ ? ~uint64_t{0} : 0);
  for (const int64_t row : ids_) pending_[row >> 6] |= uint64_t{1} << (row & 63);
  for (int64_t place = 0; place < number_; place += piece_) first_.push_back(Row(place));
  copies_.resize(first_.size());
}

void Snapshot::Keep(const int64_t* ids, int64_t number) {
  std::unique_lock<std::mutex> lock(aside_->mu);
  const int64_t bytes = kAsideRecords * width_ * sizeof(float);
  const auto fits = [&] { return aside_->used == 0 || aside_->used + bytes <= aside_->limit; };
  for (int64_t i = 0; i < number; ++i) {
    const int64_t row = ids[i], next = ids[std::min(i + kReadAhead, number - 1)];
    if (Pending(next)) FetchRecord(records_ + next * width_, width_);
    if (!Pending(row)) continue;
    Copies& copies = copies_[std::upper_bound(first_.begin(), first_.end(), row) - first_.begin() - 1];
    if (copies.ids.size() % kAsideRecords == 0) {
      if (!fits()) {
        const auto start = std::chrono::steady_clock::now();
        aside_->freed.wait(lock, [&] { return fits() || !Pending(row); });
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        waited_.store(waited_.load() + took.count());
        if (!Pending(row)) continue;
      }
      copies.blocks.emplace_back(new float[kAsideRecords * width_]);
      aside_->used += bytes;
    }
    std::memcpy(copies.blocks.back().get() + copies.ids.size() % kAsideRecords * width_, records_ + row * width_,
                width_ * sizeof(float));
    copies.ids.push_back(row);
    Forget(row);
  }
}

void Snapshot::Read(int64_t piece, float* to) {
  const int64_t begin = piece * piece_, end = std::min(number_, begin + piece_);
  for (int64_t from = begin; from < end; from += kReadRows) {
    std::lock_guard<std::mutex> lock(aside_->mu);
    for (int64_t place = from; place < std::min(end, from + kReadRows); ++place) {
      if (place + kReadAhead < end) FetchRecord(records_ + Row(place + kReadAhead) * width_, width_);
      const int64_t row = Row(place);
      if (!Pending(row)) continue;
      std::memcpy(to + (place - begin) * width_, records_ + row * width_, width_ * sizeof(float));
      Forget(row);
    }
  }
  Copies copies;
  {
    std::lock_guard<std::mutex> lock(aside_->mu);
    std::swap(copies, copies_[piece]);
  }
  for (size_t i = 0; i < copies.ids.size(); ++i) {
    const int64_t row = copies.ids[i];
    const int64_t place =
        all_ ? row - begin : std::lower_bound(ids_.begin() + begin, ids_.begin() + end, row) - ids_.begin() - begin;
    const float* const record = copies.blocks[i / kAsideRecords].get() + i % kAsideRecords * width_;
    std::memcpy(to + place * width_, record, width_ * sizeof(float));
  }
  Free(&copies);
}

void Snapshot::Close() {
  {
    std::lock_guard<std::mutex> lock(aside_->mu);
    std::fill(pending_.begin(), pending_.end(), 0);
  }
  for (Copies& copies : copies_) Free(&copies);
}

void Snapshot::Free(Copies* copies) {
  {
    std::lock_guard<std::mutex> lock(aside_->mu);
    aside_->used -= static_cast<int64_t>(copies->blocks.size() * kAsideRecords * width_ * sizeof(float));
    copies->blocks.clear();
  }
  aside_->freed.notify_all();
}

std::atomic<int64_t> Snapshots::number_{0};

void Snapshots::Add(std::shared_ptr<Snapshot> snapshot) {
  std::lock_guard<std::mutex> lock(registered_mu);
  Registered().push_back(std::move(snapshot));
  number_.store(Registered().size());
}

void Snapshots::Remove(const Snapshot* snapshot) {
  std::shared_ptr<Snapshot> removed;  // a thread in Keep may have it for a moment longer
  {
    std::lock_guard<std::mutex> lock(registered_mu);
    auto& all = Registered();
    const auto found = std::find_if(all.begin(), all.end(), [=](const auto& one) { return one.get() == snapshot; });
    if (found == all.end()) return;
    removed = std::move(*found);
    all.erase(found);
    number_.store(all.size());
  }
  removed->Close();
}

void Snapshots::KeepAll(const float* records, const int64_t* ids, int64_t number) {
  std::vector<std::shared_ptr<Snapshot>> own;
  {
    std::lock_guard<std::mutex> lock(registered_mu);
    for (const auto& one : Registered()) {
      if (one->records() == records) own.push_back(one);
    }
  }
  for (const auto& one : own) one->Keep(ids, number);
}

}  // namespace lazytower

using lazytower::Snapshot;
using lazytower::Snapshots;

// `beside`: a snapshot of the same moment, whose memory this one shares; null: it has `limit` bytes of its own.
extern "C" Snapshot* lazytower_snapshot(const float* records, int64_t rows, int64_t width, const int64_t* ids,
                                        int64_t number, int64_t piece, int64_t limit, const Snapshot* beside) {
  auto aside = beside == nullptr ? std::make_shared<lazytower::Aside>(limit) : beside->aside();
  auto made = std::make_shared<Snapshot>(records, rows, width, ids, number, piece, std::move(aside));
  Snapshot* const snapshot = made.get();
  Snapshots::Add(std::move(made));
  return snapshot;
}

extern "C" void lazytower_snapshot_read(Snapshot* snapshot, int64_t piece, float* to) { snapshot->Read(piece, to); }

// Ends it; returns the seconds in which updates waited for it.
extern "C" double lazytower_snapshot_end(Snapshot* snapshot) {
  const double waited = snapshot->waited();
  Snapshots::Remove(snapshot);
  return waited;
}
