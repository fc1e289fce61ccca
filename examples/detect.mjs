// node examples/detect.mjs FILE.onnx IMAGE.jpg: detections of an exported file, with onnxruntime-web and nothing of this project.
// A line each: x1, y1, x2, y2 in pixels, score, label: a number, as onnxruntime-web can't read the class names in the file's metadata.
import { readFileSync } from "node:fs";
import jpeg from "jpeg-js";
import * as ort from "onnxruntime-web";

const [file, image] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(file), { logSeverityLevel: 3 });
const { data, width, height } = jpeg.decode(readFileSync(image), { useTArray: true, formatAsRGBA: false });
const { boxes, scores, labels } = await session.run({ image: new ort.Tensor("uint8", data, [height, width, 3]) });
for (let i = 0; i < scores.data.length; i++)
  console.log(JSON.stringify([...boxes.data.slice(4 * i, 4 * i + 4), scores.data[i], Number(labels.data[i])]));
