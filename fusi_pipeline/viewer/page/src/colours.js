// Colours of heights, after the relief of the place that is seen. Pure.

const LAND = [
  [0, [112, 148, 112]],
  [0.15, [160, 182, 126]],
  [0.35, [222, 210, 158]],
  [0.6, [190, 156, 116]],
  [0.8, [160, 134, 120]],
  [1, [246, 246, 246]],
];
const SEA = [
  [0, [28, 58, 104]],
  [0.7, [84, 132, 176]],
  [1, [150, 190, 214]],
];
const LEAST_SPAN_M = 10;

const css = (rgb) => `rgb(${rgb.join(",")})`;

// What is drawn for a relief {land_m, sea_m}: {low, high, depth} in metres, to two digits of the span.
export function range({ land_m: land, sea_m: sea }) {
  let [low, high] = land ?? [0, 100];
  const unit = 10 ** Math.max(Math.floor(Math.log10(Math.max(high - low, LEAST_SPAN_M))) - 1, 0) * 5;
  low = Math.max(Math.floor(low / unit) * unit, 0);
  high = Math.max(Math.ceil(high / unit) * unit, low + LEAST_SPAN_M);
  // Land that begins near the shore is coloured from the shore.
  if (low < 0.1 * high) low = 0;
  return { low, high, depth: Math.min(Math.floor(sea ?? 0), -1) };
}

// Stops as [metres, colour], rising; 0 m itself is the shallowest water.
export function stops({ low, high, depth }) {
  const sea = SEA.map(([share, rgb]) => [depth * (1 - share), css(rgb)]);
  const land = LAND.map(([share, rgb]) => [Math.max(low + share * (high - low), 0.05), css(rgb)]);
  return low > 0.05 ? [...sea, [0.05, css(LAND[0][1])], ...land] : [...sea, ...land];
}

export const expression = (span) => ["interpolate", ["linear"], ["elevation"], ...stops(span).flat()];

// The colours of the land from low to high, as a gradient.
export const gradient = () =>
  `linear-gradient(to right, ${LAND.map(([share, rgb]) => `${css(rgb)} ${share * 100}%`).join(", ")})`;

// Whether a range is far enough from the one that is drawn to be worth a change.
export function differs(one, other) {
  if (!one) return true;
  const span = Math.max(other.high - other.low, 1);
  const moved = Math.max(Math.abs(one.low - other.low), Math.abs(one.high - other.high));
  return moved / span > 0.12 || (one.depth < -5) !== (other.depth < -5) || other.depth < 1.5 * one.depth;
}
