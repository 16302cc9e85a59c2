
"use strict";

// Reads the text format of /metrics. Labels are read as they come: later versions may add some.

// Returns the samples of the families that start with `prefix`, by the name of each sample.
function parseMetrics(text, prefix) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    if (!line.startsWith(prefix)) {
      continue;
    }
    const found = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (found === null) {
      continue;
    }
    const [, name, labels, value] = found;
    if (!samples.has(name)) {
      samples.set(name, []);
    }
    samples.get(name).push({ labels: parseLabels(labels ?? ""), value: parseNumber(value) });
  }
  return samples;
}

function parseLabels(text) {
  const labels = new Map();
  for (const [, name, value] of text.matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels.set(name, value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped)));
  }
  return labels;
}

function parseNumber(text) {
  if (text === "+Inf") {
    return Infinity;
  }
  return text === "-Inf" ? -Infinity : Number(text);
}

// Returns the value of a sample without labels, or with all of these; undefined if there is none.
function sampleOf(samples, name, labels = {}) {
  const wanted = Object.entries(labels);
  const fits = (sample) => wanted.every(([label, value]) => sample.labels.get(label) === value);
  return samples.get(name)?.find(fits)?.value;
}

// Returns the histograms of one family that have observed anything, one for each combination of
// labels: its labels, its count, and its buckets, each with the count of that bucket alone.
function histogramsOf(samples, name) {
  const histograms = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    const others = [...labels].filter(([label]) => label !== "le");
    const key = JSON.stringify(others);
    if (!histograms.has(key)) {
      histograms.set(key, { labels: others.map(([, text]) => text), buckets: [] });
    }
    const bound = parseNumber(labels.get("le") ?? "");
    histograms.get(key).buckets.push({ bound, cumulative: value });
  }
  return [...histograms.values()].map(countBuckets).filter((histogram) => histogram.count > 0);
}

function countBuckets({ labels, buckets }) {
  buckets.sort((a, b) => a.bound - b.bound);
  let before = 0;
  const counted = buckets.map(({ bound, cumulative }) => {
    const count = cumulative - before;
    before = cumulative;
    return { bound, count };
  });
  return { labels, count: before, buckets: counted };
}

// Returns the bound below which the share `quantile` of all observations is.
function quantileBound(histogram, quantile) {
  let sum = 0;
  for (const { bound, count } of histogram.buckets) {
    sum += count;
    if (sum >= quantile * histogram.count) {
      return bound;
    }
  }
  return Infinity;
}
