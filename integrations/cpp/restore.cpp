// Make a picture four times as large with an exported model: restore GRAPH.xml IN.ppm OUT.ppm
#include <cmath>
#include <fstream>
#include <openvino/openvino.hpp>

int main(int, char** names) {
  std::ifstream in(names[2], std::ios::binary);
  std::string kind;
  size_t width, height, largest;
  in >> kind >> width >> height >> largest;
  in.get();
  ov::Tensor low_quality(ov::element::f32, {1, 3, height, width}), degrees(ov::element::f32, {1, 2});
  for (size_t pixel = 0; pixel < height * width; ++pixel)
    for (size_t channel = 0; channel < 3; ++channel)
      low_quality.data<float>()[channel * height * width + pixel] = in.get() / 255.0f;
  degrees.data<float>()[0] = degrees.data<float>()[1] = -1;  // estimate blur and noise
  ov::Core core;
  auto run = core.compile_model(names[1], "CPU", ov::hint::inference_precision(ov::element::f32)).create_infer_request();
  run.set_tensor("low_quality", low_quality);
  run.set_tensor("degrees", degrees);
  run.infer();
  const size_t num_pixels = 16 * height * width;
  const float* restored = run.get_tensor("restored").data<float>();
  std::ofstream out(names[3], std::ios::binary);
  out << "P6\n" << 4 * width << " " << 4 * height << "\n255\n";
  for (size_t pixel = 0; pixel < num_pixels; ++pixel)
    for (size_t channel = 0; channel < 3; ++channel)
      out.put(static_cast<char>(std::lround(255 * restored[channel * num_pixels + pixel])));
}
