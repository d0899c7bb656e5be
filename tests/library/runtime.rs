//! The runtime's mechanics: scratch buffers, taps, replays, tokens in flight, memory counters.

use crate::support;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instructblip::runtime::kernels::{Kernel, Needs};
use instructblip::runtime::{
    Caps, Category, Compiling, Device, Linear, Matrix, Plan, Recorder, Step, Tensor, Watch, WeightFormat, Work,
};
use instructblip::{DeviceOptions, Error};

fn tensor(device: &Device, rows: u32, cols: u32, values: &[f32]) -> Tensor {
    device.tensor(Category::Io, "test", rows, cols, values).expect("a tensor")
}

/// `k` outputs equal to the `k` inputs times `scale`.
fn scaling(device: &Device, k: u32, scale: f32) -> Linear {
    let weight = Matrix::uninit(device, "scaling", k, k, WeightFormat::F16).expect("a matrix");
    let value = |i: u32| if i / k == i % k { scale } else { 0.0 };
    weight.write_rows(device, 0, &(0..k * k).map(value).collect::<Vec<_>>());
    Linear { weight, bias: None }
}

fn run(device: &Device, r: Recorder) -> Plan {
    let plan = r.finish(device).expect("a plan");
    plan.write_step(Step::default());
    plan.submit().expect("submitted");
    plan
}

#[test]
fn a_slot_is_free_once_its_tensor_is_dropped() {
    let mut r = Recorder::new(Caps::PORTABLE);
    let a = r.empty(4, 8);
    let b = r.empty(2, 8);
    assert_eq!(r.scratch(), (2, 192));
    drop(a);
    let c = r.empty(8, 8); // takes the free buffer and grows it
    assert_eq!(r.scratch(), (2, 320));
    drop((b, c));
    let _d = r.empty(2, 8); // takes the tighter of two
    let _e = r.empty(8, 8);
    assert_eq!(r.scratch(), (2, 320));
}

#[test]
fn views_keep_their_slot() {
    let mut r = Recorder::new(Caps::PORTABLE);
    let view = r.empty(4, 8).slice_rows(1, 2);
    let _other = r.empty(1, 8);
    assert_eq!(r.scratch().0, 2);
    assert_eq!((view.rows(), view.cols(), view.len()), (2, 8, 16));
}

#[test]
fn a_long_chain_needs_two_slots() {
    let Some(device) = support::device() else { return };
    let double = scaling(&device, 8, 2.0);
    let x = tensor(&device, 1, 8, &[1.0; 8]);
    let mut r = Recorder::new(device.caps());
    let mut h = r.linear(&x, &double);
    for _ in 0..9 {
        h = r.linear(&h, &double);
    }
    assert_eq!(r.scratch(), (2, 64));
    let plan = run(&device, r);
    assert_eq!(device.read::<f32>(&plan.output(&h)).expect("a result"), [1024.0; 8]);
}

#[test]
fn taps_keep_what_was_there_at_that_moment() {
    let Some(device) = support::device() else { return };
    let mut layers = [scaling(&device, 8, 1.0), scaling(&device, 8, 1.0)];
    layers[0].weight = layers[0].weight.clone().relabelled("first");
    layers[1].weight = layers[1].weight.clone().relabelled("second");
    let x = tensor(&device, 1, 8, &[1.0; 8]);
    let mut r = Recorder::new(device.caps()).with_taps(&["first".into(), "inside.copy".into(), "nobody".into()]);
    let mut y = r.empty(1, 8);
    r.scope("inside", |r| r.copy(&mut y, &x));
    r.linear_add(&mut y, &x, &layers[0]);
    r.linear_add(&mut y, &x, &layers[1]);
    let plan = run(&device, r);
    let read = |t: &Tensor| device.read::<f32>(t).expect("a result")[0];
    let taps: Vec<(&str, f32)> = plan.taps().iter().map(|(label, t)| (label.as_str(), read(t))).collect();
    assert_eq!(taps, [("inside.copy", 1.0), ("first", 2.0)]);
    assert_eq!(read(&plan.output(&y)), 3.0);
}

/// Each replay adds 1.0 to a counter whose bits are the token.
fn counter(device: &Device) -> Plan {
    let count = tensor(device, 1, 1, &[0.0]);
    let mut r = Recorder::new(device.caps());
    r.add(&mut count.clone(), &tensor(device, 1, 1, &[1.0]));
    r.finish(device).expect("a plan").with_tokens(&count).expect("a token")
}

fn read(plan: &Plan) -> f32 {
    f32::from_bits(plan.read_tokens().expect("a token")[0])
}

#[test]
fn tokens_come_back_in_order_with_two_steps_in_flight() {
    let Some(device) = support::device() else { return };
    let plan = counter(&device);
    plan.submit().expect("submitted");
    let created = (device.counters().buffers_created(), device.counters().bind_groups_created());
    for i in 1..50 {
        plan.submit().expect("submitted");
        assert_eq!(read(&plan), i as f32);
    }
    assert_eq!(read(&plan), 50.0);
    assert_eq!((device.counters().buffers_created(), device.counters().bind_groups_created()), created);
}

#[test]
fn unread_tokens_are_drained() {
    let Some(device) = support::device() else { return };
    let plan = counter(&device);
    plan.submit().expect("submitted");
    plan.submit().expect("submitted");
    plan.drain_tokens().expect("drained");
    plan.submit().expect("submitted");
    assert_eq!(read(&plan), 3.0);
}

#[test]
fn a_dropped_plan_gives_its_scratch_to_the_next_but_not_what_is_still_read() {
    let Some(device) = support::device() else { return };
    let double = scaling(&device, 64, 2.0);
    let x = tensor(&device, 1, 64, &[1.0; 64]);
    let record = || {
        let mut r = Recorder::new(device.caps());
        let h = r.linear(&x, &double);
        let y = r.linear(&h, &double);
        let plan = run(&device, r);
        (plan.output(&y), plan)
    };
    let (kept, plan) = record();
    drop(plan);
    let scratch = device.counters().bytes(Category::Scratch);
    let (again, plan) = record();
    // One buffer came back from the pool, the kept one did not.
    assert_eq!(device.counters().bytes(Category::Scratch), scratch + 256);
    drop(plan);
    assert_eq!(device.read::<f32>(&kept).expect("kept"), [4.0; 64]);
    assert_eq!(device.read::<f32>(&again).expect("again"), [4.0; 64]);
    drop((kept, again));
}

#[test]
fn memory_is_counted_by_category_and_given_back() {
    let Some(device) = support::device() else { return };
    let before = device.counters().total_bytes();
    let weights = Matrix::uninit(&device, "w", 16, 32, WeightFormat::F16).expect("a matrix");
    assert_eq!((weights.bytes(), device.counters().bytes(Category::Weights)), (1024, 1024));
    let cache = device.zeros(Category::KvCache, "kv", 4, 8).expect("a tensor");
    assert_eq!(device.counters().bytes(Category::KvCache), 128);
    assert_eq!(device.counters().total_bytes(), before + 1152);
    drop((weights, cache));
    assert_eq!(device.counters().total_bytes(), before);
    assert!(device.counters().peak_bytes() >= before + 1152);
}

#[test]
fn profile_times_every_dispatch() {
    let Some(device) = support::device() else { return };
    if !device.has_timestamps() {
        return;
    }
    let layer = scaling(&device, 64, 1.0);
    let mut r = Recorder::new(device.caps());
    let y = r.linear(&tensor(&device, 1, 64, &[1.0; 64]), &layer);
    r.linear(&y, &layer);
    let timings = r.finish(&device).expect("a plan").profile().expect("timings");
    assert_eq!(timings.iter().map(|t| (t.label.as_str(), t.flops)).collect::<Vec<_>>(), [("scaling", 8192); 2]);
    assert!(timings.iter().all(|t| t.microseconds >= 0.0 && t.bytes > 0));
}

#[test]
fn what_exceeds_a_limit_is_refused_with_both_numbers() {
    let Some(device) = support::portable_device() else { return };
    match device.zeros(Category::Io, "huge", 1 << 16, 1 << 11) {
        Err(Error::DoesNotFit { need, have, what }) => {
            assert_eq!((need, have), (1 << 29, 256 << 20));
            assert!(what.contains("huge"));
        }
        other => panic!("{other:?}"),
    }
    // Fits a buffer, not a binding.
    let big = device.zeros(Category::Io, "big", 6 << 20, 8).expect("a buffer of 192 MiB");
    let mut r = Recorder::new(device.caps());
    let mut small = r.empty(1, 8);
    r.copy(&mut small, &big.slice_rows(0, 1));
    assert!(matches!(r.finish(&device), Err(Error::DoesNotFit { need: 201_326_592, .. })));
}

#[test]
fn a_recording_without_a_device_cannot_run() {
    let Some(device) = support::device() else { return };
    let mut r = Recorder::new(device.caps());
    let mut y = r.empty(1, 8);
    r.copy(&mut y, &Tensor::unbacked(1, 8));
    assert!(matches!(r.finish(&device), Err(Error::Request { .. })));
}

#[test]
fn an_adapter_that_does_not_exist_is_refused_with_those_that_do() {
    let Some(device) = support::device() else { return };
    match Device::open(&DeviceOptions { adapter: Some("no such adapter".into()), ..Default::default() }) {
        Err(Error::NoAdapter { wanted, found }) => {
            assert!(wanted.contains("no such adapter"));
            assert!(found.iter().any(|name| name == device.name()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_that_does_not_compile_is_refused_by_name() {
    let broken =
        Kernel { name: "broken", form: "broken", file: "broken", sources: &["fn main( {"], needs: Needs::Nothing };
    match broken.interface(&[]) {
        Err(Error::Gpu { what, .. }) => assert!(what.contains("broken")),
        other => panic!("{other:?}"),
    }
}

/// The results of a small plan on a device opened with `options`.
fn result_of(options: &DeviceOptions) -> Vec<f32> {
    let device = Device::open(options).expect("the device again");
    let layer = scaling(&device, 64, 0.5);
    let mut r = Recorder::new(device.caps());
    let y = r.linear(&tensor(&device, 1, 64, &[3.0; 64]), &layer);
    let plan = r.finish(&device).expect("a plan");
    plan.submit().expect("submitted");
    device.read(&plan.output(&y)).expect("values")
}

#[test]
fn a_damaged_file_of_compiled_kernels_is_ignored_and_replaced() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let options = DeviceOptions { cache: Some(folder.path().join("a/b")), ..Default::default() };
    let want = result_of(&DeviceOptions::default());
    assert_eq!(result_of(&options), want);
    let Some(file) = std::fs::read_dir(folder.path().join("a/b")).ok().and_then(|mut files| files.next()) else {
        eprintln!("this driver gives compiled kernels to nobody");
        return;
    };
    let file = file.expect("a file").path();
    let whole = std::fs::read(&file).expect("the file");
    assert_eq!(result_of(&options), want);
    assert_eq!(std::fs::read(&file).expect("the file").len(), whole.len());
    let mut flipped = whole.clone();
    flipped[whole.len() - 1] ^= 0x40;
    for damaged in [flipped, whole[..whole.len() / 2].to_vec(), b"something else".to_vec(), Vec::new()] {
        std::fs::write(&file, &damaged).expect("a damaged file");
        assert_eq!(result_of(&options), want);
        let now = std::fs::read(&file).expect("the file");
        assert!(now.len() == whole.len() && now != damaged, "{} bytes, once {}", now.len(), whole.len());
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_no_error() {
    if support::device().is_none() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let options = DeviceOptions { cache: Some(file.path().join("folder")), ..Default::default() };
    assert_eq!(result_of(&options), result_of(&DeviceOptions::default()));
}

#[test]
fn compiling_is_told_and_happens_once() {
    if support::device().is_none() {
        return;
    }
    let told: Arc<Mutex<Vec<Compiling>>> = Arc::default();
    let keep = told.clone();
    let watch = Watch::new(move |work| {
        if let Work::Compiling(now) = work {
            keep.lock().expect("a list").push(now.clone());
        }
        ControlFlow::Continue(())
    });
    let device = Device::open(&DeviceOptions { watch, ..Default::default() }).expect("the device");
    let plan = || {
        let mut r = Recorder::new(device.caps());
        let mut y = r.empty(1, 64);
        r.copy(&mut y, &tensor(&device, 1, 64, &[1.0; 64]));
        r.add(&mut y, &tensor(&device, 1, 64, &[1.0; 64]));
        r.finish(&device).expect("a plan")
    };
    plan();
    let (told_once, compiled) = (told.lock().expect("a list").clone(), device.counters().pipelines_compiled());
    assert!(compiled > 0);
    let (last, before) = told_once.split_last().expect("it was told");
    assert!(last.longest.is_none() && last.done == last.total && last.total as u64 == compiled, "{last:?}");
    assert!(!before.is_empty() && before.iter().all(|now| now.longest.is_some() && now.total == last.total));
    plan();
    assert_eq!(device.counters().pipelines_compiled(), compiled);
    assert_eq!(told.lock().expect("a list").len(), told_once.len());
}

#[test]
fn waiting_ends_when_kernels_do_not() {
    let Some(device) = support::device() else { return };
    let layer = scaling(&device, 1024, 1.0);
    let mut r = Recorder::new(device.caps());
    let mut x = r.linear(&tensor(&device, 256, 1024, &vec![1.0; 256 << 10]), &layer);
    for _ in 0..15 {
        x = r.linear(&x, &layer);
    }
    let plan = r.finish(&device).expect("a plan");
    plan.submit().expect("submitted");
    match device.wait_for(Duration::from_micros(10)) {
        Err(Error::DeviceLost { reason }) => assert!(reason.contains("within 0.00001 s"), "{reason}"),
        other => panic!("8 GFLOP in 10 us: {other:?}"),
    }
    // It was only slow: nothing is lost.
    device.wait().expect("it ends");
    device.wait_for(Duration::from_secs(60)).expect("nothing is left to wait for");
    assert_eq!(device.read::<f32>(&plan.output(&x)).expect("values")[..4], [1.0; 4]);
}

/// A device that a program has, with WebGPU's default limits and no features, as a window's may be: models run on it.
#[cfg(feature = "from-wgpu")]
#[test]
fn a_programs_own_device_answers_as_well() {
    use instructblip::{GenerateOptions, Image, InstructBlip, wgpu};
    if support::device().is_none() {
        return;
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).expect("an adapter");
    let open = |required_limits| {
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        pollster::block_on(adapter.request_device(&descriptor)).expect("a device")
    };
    let (gpu, queue) = open(wgpu::Limits::default());
    let device = Device::from_wgpu(&adapter, &gpu, &queue, &DeviceOptions::default()).expect("a device");
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let image = Image::open(support::golden::tests_folder().join("shapes/samples/10.png")).expect("a picture");
    let reply = model.ask(&image, "Can you count the things?", &GenerateOptions::default()).expect("an answer");
    assert_eq!(reply.text, "2");
    let (gpu, queue) = open(wgpu::Limits::downlevel_defaults());
    match Device::from_wgpu(&adapter, &gpu, &queue, &DeviceOptions::default()) {
        Err(Error::NoAdapter { found, .. }) => assert!(found[0].contains("storage buffers"), "{found:?}"),
        other => panic!("{other:?}"),
    }
}
