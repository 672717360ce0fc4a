// What the page says in answer, in two languages. What never changes stands in index.html.

const CLASSES = { NORMAL: "НОРМА", PNEUMONIA: "ПНЕВМОНИЯ" };
const share = (number) => number.toFixed(3);
const digits = (value, count) => value.toFixed(count).replace(/^-(?=[0.]*$)/, "").replace("-", "−");
const comma = (text) => text.replace(".", ",");

export const words = {
  en: {
    loading: "The network is being loaded …",
    ready: "The network is ready.",
    working: "The picture is being read …",
    number: digits,
    className: (name) => name,
    // the words of `pneumoprune predict`
    decided: ({ probability, decision, threshold }) =>
      `Probability of pneumonia ${share(probability)}, ${decision} (threshold ${share(threshold)}).`,
    refused: ({ distance }) =>
      `No chest X-ray as far as this network can tell, or one unlike those it was trained on (distance ${distance.toFixed(2)}, the limit is 1); no decision.`,
    rows: { file: "File", pixels: "Picture, pixels", probability: "Probability of pneumonia", threshold: "Threshold",
      decision: "Decision", distance: "Guard: distance, in units of the limit", time: "Time of a prediction, ms" },
    none: "none",
    meaningless: "means nothing for such a picture",
    median: (count) => `median of ${count}`,
    most: (where, points) => `Most speaks for pneumonia ${where}: covered, it makes the probability fall by ${points} percentage points on the average.`,
    nothing: "Nothing in the picture speaks for pneumonia: wherever it is covered, the probability does not fall.",
    places: ["at the top left", "at the top", "at the top right", "on the left", "in the middle", "on the right",
      "at the bottom left", "at the bottom", "at the bottom right"],
    facts: ({ name, bytes, size, classes, threshold, trainingData, version }) =>
      `${name}: ${Math.round(bytes / 1000)} kB. It takes a grey image of ${size} × ${size} pixels and tells ${classes.join(" from ")}, `
      + `positive from ${share(threshold)} on. Training data: ${trainingData}. Made by pneumoprune ${version}.`,
    errors: {
      kind: () => "This is neither PNG nor JPEG. Give an X-ray in one of these formats.",
      dicom: () => "This is a DICOM file. Export its image as PNG, or give it to pneumoprune predict.",
      damaged: (what) => `This file can't be read${what && ` (${what})`}: it is damaged. Export it again as PNG.`,
      large: (millions) => `This picture has ${millions} million pixels; 64 million are allowed. Make it smaller.`,
      small: (sides) => `This picture has ${sides} pixels: too few for an X-ray. Give at least 32 a side.`,
      coding: () => "This JPEG is coded in a way that this page does not read. Export it again as PNG.",
      memory: () => "The browser has no memory left for this picture. Make it smaller.",
      network: (why) => `The network can't be loaded (${why}). Serve the folder over http, for instance with python -m http.server, and load the page again.`,
      unknown: (why) => `This did not work (${why}). Load the page again.`,
    },
  },
  ru: {
    loading: "Сеть загружается …",
    ready: "Сеть готова.",
    working: "Снимок читается …",
    number: (value, count) => comma(digits(value, count)),
    className: (name) => CLASSES[name] ?? name,
    decided: ({ probability, decision, threshold }) =>
      `Вероятность пневмонии ${comma(share(probability))}, ${CLASSES[decision] ?? decision} (порог ${comma(share(threshold))}).`,
    refused: ({ distance }) =>
      `Насколько сеть может судить, это не снимок грудной клетки или снимок, непохожий на обучающие (расстояние ${comma(distance.toFixed(2))}, предел — 1); решения нет.`,
    rows: { file: "Файл", pixels: "Снимок, пикселей", probability: "Вероятность пневмонии", threshold: "Порог",
      decision: "Решение", distance: "Сторож: расстояние в долях предела", time: "Время предсказания, мс" },
    none: "нет",
    meaningless: "для такого изображения ничего не значит",
    median: (count) => `медиана ${count} измерений`,
    most: (where, points) => `Больше всего за пневмонию говорит часть снимка ${where}: если её закрыть, вероятность падает в среднем на ${points} процентного пункта.`,
    nothing: "Ничто на снимке не говорит за пневмонию: что бы ни закрыть, вероятность не падает.",
    places: ["слева вверху", "вверху", "справа вверху", "слева", "посередине", "справа", "слева внизу", "внизу", "справа внизу"],
    facts: ({ name, bytes, size, classes, threshold, trainingData, version }) =>
      `${name}: ${Math.round(bytes / 1000)} кБ. Сеть берёт серое изображение ${size} × ${size} пикселей и различает классы `
      + `${classes.map((one) => CLASSES[one] ?? one).join(" и ")}; порог ${comma(share(threshold))}. Обучающие данные: ${trainingData}. `
      + `Сделано программой pneumoprune ${version}.`,
    errors: {
      kind: () => "Это не PNG и не JPEG. Дайте рентгеновский снимок в одном из этих форматов.",
      dicom: () => "Это файл DICOM. Сохраните снимок из него как PNG или дайте файл команде pneumoprune predict.",
      damaged: (what) => `Файл не читается${what && ` (${what})`}: он повреждён. Сохраните снимок заново как PNG.`,
      large: (millions) => `В снимке ${millions} млн пикселей, допускается 64 млн. Уменьшите его.`,
      small: (sides) => `В снимке ${sides} пикселей: для рентгеновского снимка слишком мало. Нужно хотя бы 32 по каждой стороне.`,
      coding: () => "Этот JPEG закодирован способом, который страница не читает. Сохраните снимок заново как PNG.",
      memory: () => "Браузеру не хватает памяти для этого снимка. Уменьшите его.",
      network: (why) => `Сеть не загружается (${why}). Раздайте папку по http, например командой python -m http.server, и загрузите страницу снова.`,
      unknown: (why) => `Не получилось (${why}). Загрузите страницу снова.`,
    },
  },
};
