#include "attention.h"

namespace galerne {

namespace {

int64_t num_segments(int64_t num_keys) {
  return (num_keys + KEY_BLOCK * SEGMENT - 1) / (KEY_BLOCK * SEGMENT);
}

// One piece at work: rows are (token, head), tokens first.
struct Tile {
  const Family& f;
  const Layer& l;
  const Step& s;
  const bf16* cache;
  const Scratch& scratch;
  const Piece& piece;
  ThreadScratch& mine;
  const int64_t row = s.first_row[piece.chunk] + piece.first;  // of the first token, in the step
  const int64_t position = s.start[piece.chunk] + piece.first;
  const int64_t latent = l.kv_rank + l.rope;
  const int64_t num_rows = piece.count * l.num_heads;
  float* const segment_maximum = mine.maxima;
  float* const segment_sum = mine.maxima + num_rows;
  float* const maximum = mine.maxima + 2 * num_rows;
  float* const sum = mine.maxima + 3 * num_rows;

  int64_t position_of(int64_t r) const { return position + r / l.num_heads; }
  const bf16* query(int64_t r) const {
    return scratch.queries + ((row * l.num_heads) + r) * latent;
  }

  void block(int64_t first_key);
  void rows_times_block(int64_t start, int count, int64_t first_key, int num_packed);
  void segment_of(int64_t index);
  void join_total();
};

// Rows from `start` on against the packed block of `num_packed` keys; all of them see some of it.
void Tile::rows_times_block(int64_t start, int count, int64_t first_key, int num_packed) {
  alignas(64) float sums[MAX_ROWS * COLUMNS], scores[MAX_ROWS][KEY_BLOCK];
  const char* x[MAX_ROWS];
  const Format& format = *f.formats[BF16];
  int visible[MAX_ROWS], most = 0;
  for (int i = 0; i < count; ++i) {
    x[i] = reinterpret_cast<const char*>(query(start + i));
    const int64_t seen = position_of(start + i) - first_key + 1;
    visible[i] = static_cast<int>(std::min<int64_t>(seen, KEY_BLOCK));
    most = std::max(most, visible[i]);
  }
  const char* const keys = reinterpret_cast<const char*>(mine.keys);
  const char* const values = reinterpret_cast<const char*>(mine.values);
  for (int column = 0; column < most; column += COLUMNS) {
    format.superblock(count, x, keys + column * latent * sizeof(bf16), latent, {keys, latent / 2, keys}, sums);
    for (int i = 0; i < count; ++i)
      std::memcpy(scores[i] + column, sums + i * COLUMNS, COLUMNS * sizeof(float));
  }
  const int whole = (most + 15) / 16 * 16;  // keys that these rows add up: a prefix of the packed
  float part_maximum[MAX_ROWS], part_sum[MAX_ROWS];
  for (int i = 0; i < count; ++i) {
    bf16* p = mine.p + i * KEY_BLOCK;
    part_sum[i] = f.rows->softmax(scores[i], visible[i], &part_maximum[i], p);
    const int filled = (visible[i] + 15) / 16 * 16;
    std::memset(p + filled, 0, (whole - filled) * sizeof(bf16));
    x[i] = reinterpret_cast<const char*>(p);
  }
  const int64_t dims = scratch.dims;
  for (int64_t column = 0; column < dims; column += COLUMNS) {
    format.superblock(count, x, values + column * num_packed * sizeof(bf16), whole,
                      {values, whole / 2, values}, sums);
    for (int i = 0; i < count; ++i)
      std::memcpy(mine.part + i * dims + column, sums + i * COLUMNS, COLUMNS * sizeof(float));
  }
  for (int i = 0; i < count; ++i) {
    const int64_t r = start + i;
    f.rows->join(mine.segment + r * dims, segment_maximum + r, segment_sum + r,
                 mine.part + i * dims, part_maximum[i], part_sum[i], dims);
  }
}

void Tile::block(int64_t first_key) {
  const int64_t last = position + piece.count - 1;
  const int num_keys = static_cast<int>(std::min<int64_t>(last - first_key + 1, KEY_BLOCK));
  const int whole = (num_keys + 15) / 16 * 16;  // those behind are read and weigh nothing
  const bf16* keys[KEY_BLOCK];
  const int64_t* table = s.tables + s.table_at[piece.chunk];
  for (int i = 0; i < whole; ++i) {
    const int64_t key = std::min(first_key + i, last);
    keys[i] = cache + (table[key / s.block_size] * s.block_size + key % s.block_size) * latent;
  }
  f.rows->pack_keys(keys, num_keys, latent, mine.keys);
  f.rows->pack_values(keys, whole, l.kv_rank, mine.values);
  // The first token that sees any of the block; then rows in small groups.
  const int64_t unseeing = std::max<int64_t>(0, first_key - position) * l.num_heads;
  for (int64_t start = unseeing; start < num_rows; start += MAX_ROWS)
    rows_times_block(start, static_cast<int>(std::min<int64_t>(MAX_ROWS, num_rows - start)),
                     first_key, whole);
}

void Tile::segment_of(int64_t index) {
  std::fill_n(mine.segment, num_rows * scratch.dims, 0.0f);
  std::fill_n(segment_maximum, num_rows, -HUGE_VALF);
  std::fill_n(segment_sum, num_rows, 0.0f);
  const int64_t last = position + piece.count - 1;
  const int64_t begin = index * SEGMENT * KEY_BLOCK;
  const int64_t end = std::min(begin + SEGMENT * KEY_BLOCK, last + 1);
  for (int64_t key = begin; key < end; key += KEY_BLOCK) block(key);
}

void Tile::join_total() {
  for (int64_t r = 0; r < num_rows; ++r)
    if (segment_sum[r] != 0.0f)
      f.rows->join(mine.total + r * scratch.dims, maximum + r, sum + r,
                   mine.segment + r * scratch.dims, segment_maximum[r], segment_sum[r],
                   scratch.dims);
}

}  // namespace

int64_t cut_pieces(const Layer& l, const Step& s, Piece* pieces) {
  const int64_t tile = tile_tokens(l);
  int64_t count = 0;
  const auto add = [&](Piece piece) {
    if (pieces) pieces[count] = piece;
    ++count;
  };
  for (int64_t chunk = 0; chunk < s.num_chunks; ++chunk) {
    const int64_t num_tokens = s.first_row[chunk + 1] - s.first_row[chunk];
    if (num_tokens == 1) {
      for (int64_t i = 0; i < num_segments(s.start[chunk] + 1); ++i) add({chunk, 0, 1, i});
      continue;
    }
    for (int64_t first = 0; first < num_tokens; first += tile)
      add({chunk, first, std::min(tile, num_tokens - first), -1});
  }
  return count;
}

void attend_piece(const Family& f, const Layer& l, const Step& s, const bf16* cache,
                  Scratch& scratch, int64_t index, ThreadScratch& mine) {
  const Piece& piece = scratch.pieces[index];
  Tile tile{f, l, s, cache, scratch, piece, mine};
  const int64_t dims = scratch.dims, segments = num_segments(tile.position + piece.count);
  if (piece.segment >= 0 && segments > 1) {
    tile.segment_of(piece.segment);
    float* out = scratch.partial + index * l.num_heads * (dims + 2);
    for (int64_t r = 0; r < l.num_heads; ++r, out += dims + 2) {
      std::memcpy(out, mine.segment + r * dims, dims * sizeof(float));
      out[dims] = tile.segment_maximum[r];
      out[dims + 1] = tile.segment_sum[r];
    }
    return;
  }
  std::fill_n(mine.total, tile.num_rows * dims, 0.0f);
  std::fill_n(tile.maximum, tile.num_rows, -HUGE_VALF);
  std::fill_n(tile.sum, tile.num_rows, 0.0f);
  for (int64_t i = 0; i < segments; ++i) {
    tile.segment_of(i);
    tile.join_total();
  }
  for (int64_t r = 0; r < tile.num_rows; ++r)
    f.rows->divide(mine.total + r * dims, tile.sum[r], dims,
                   scratch.mixed + (tile.row * l.num_heads + r) * dims);
}

void join_segments(const Family& f, const Layer& l, const Step& s, Scratch& scratch,
                   int64_t num_pieces, int64_t index, ThreadScratch& mine) {
  const Piece& piece = scratch.pieces[index];
  if (piece.segment != 0) return;
  const int64_t dims = scratch.dims, stride = dims + 2;
  int64_t count = 1;
  while (index + count < num_pieces && scratch.pieces[index + count].segment == count) ++count;
  if (count == 1) return;
  for (int64_t r = 0; r < l.num_heads; ++r) {
    float maximum = -HUGE_VALF, sum = 0.0f;
    std::fill_n(mine.total, dims, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const float* part = scratch.partial + ((index + i) * l.num_heads + r) * stride;
      f.rows->join(mine.total, &maximum, &sum, part, part[dims], part[dims + 1], dims);
    }
    const int64_t row = s.first_row[piece.chunk] * l.num_heads + r;
    f.rows->divide(mine.total, sum, dims, scratch.mixed + row * dims);
  }
}

}  // namespace galerne
