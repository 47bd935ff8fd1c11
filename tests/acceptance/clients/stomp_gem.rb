# The Ruby gem `stomp`. Arguments: step, port, login, passcode, queue, version.
require 'stomp'
require 'json'

$stdout.sync = true
STEP, PORT, LOGIN, PASSCODE, QUEUE, VERSION_ASKED = ARGV

# No complaints on standard error about a connection that was lost and made again: that is what is tested.
class Quiet < Stomp::NullLogger
  def on_miscerr(*) = true
  def on_connectfail(*) = true
end

class Client
  def initialize(beats: nil, reliable: false)
    asked = VERSION_ASKED == '1.0' ? {} : { 'accept-version' => VERSION_ASKED, 'host' => '127.0.0.1' }
    asked['heart-beat'] = beats if beats
    ssl = ENV['STOMP_CA'] ? Stomp::SSLParams.new(ts_files: ENV['STOMP_CA']) : false
    @connection = Stomp::Connection.new(
      hosts: [{ login: LOGIN, passcode: PASSCODE, host: '127.0.0.1', port: PORT.to_i, ssl: ssl }],
      connect_headers: asked, reliable: reliable, initial_reconnect_delay: 0.05, max_reconnect_delay: 0.2,
      max_reconnect_attempts: 0, logger: Quiet.new
    )
    @receipts = 0
    @early = []
    raise @connection.connection_frame.to_s unless @connection.connection_frame.command == 'CONNECTED'
  end

  attr_reader :connection

  def receipt
    id = "r-#{@receipts += 1}"
    yield({ 'receipt' => id })
    frame = @connection.receive
    while frame.command == 'MESSAGE' # it may come before the receipt
      @early << frame
      frame = @connection.receive
    end
    raise frame.to_s unless frame.command == 'RECEIPT' && frame.headers['receipt-id'] == id
  end

  def subscribe
    receipt do |asked|
      headers = { 'ack' => 'client-individual', 'prefetch-count' => '3', 'id' => 's' }.merge(asked)
      @connection.subscribe(QUEUE, headers, 's')
    end
  end

  def message
    frame = @early.shift || @connection.receive
    raise frame.to_s unless frame.command == 'MESSAGE'
    frame
  end

  def settle(verb, frame, headers = {})
    case VERSION_ASKED
    when '1.2' then @connection.send(verb, frame.headers['ack'], headers)
    when '1.1' then @connection.send(verb, frame.headers['message-id'], headers.merge('subscription' => 's'))
    else @connection.send(verb, frame.headers['message-id'], headers)
    end
  end
end

def talk
  client = Client.new
  stomp = client.connection
  puts "connected #{stomp.protocol}"
  note = VERSION_ASKED == '1.0' ? 'a:b' : "a:b\nd" # it takes a doubled backslash apart wrong
  ['one', 'two', 'drei ß'].each do |body|
    client.receipt { |asked| stomp.publish(QUEUE, body, { 'persistent' => 'true', 'note' => note }.merge(asked)) }
  end
  puts 'sent'
  client.subscribe
  one, two, three = Array.new(3) { client.message }
  puts "received #{[one, two, three].map(&:body).join(' ')}"
  puts "note #{one.headers['note'].to_json}"
  client.settle(:ack, one)
  client.settle(:ack, two)
  if VERSION_ASKED == '1.0' # where the gem refuses to send one
    client.settle(:ack, three)
  else
    client.settle(:nack, three)
    again = client.message
    puts "again #{again.body} #{again.headers['redelivered']}"
    client.settle(:ack, again)
  end
  stomp.begin('t1')
  stomp.publish(QUEUE, 'never', { 'transaction' => 't1' })
  client.receipt { |asked| stomp.abort('t1', asked) }
  stomp.begin('t2')
  stomp.publish(QUEUE, 'four', { 'transaction' => 't2' })
  stomp.publish(QUEUE, 'five', { 'transaction' => 't2' })
  client.receipt { |asked| stomp.commit('t2', asked) }
  four, five = Array.new(2) { client.message }
  puts "committed #{four.body} #{five.body}"
  stomp.begin('t3')
  client.settle(:ack, four, { 'transaction' => 't3' })
  client.settle(:ack, five, { 'transaction' => 't3' })
  client.receipt { |asked| stomp.commit('t3', asked) }
  stomp.disconnect('receipt' => 'last')
  puts 'bye'
end

def beat
  client = Client.new(beats: '100,100')
  client.subscribe
  puts 'idle'
  message = client.message
  puts "woken #{message.body}"
  client.settle(:ack, message)
  client.connection.disconnect
  puts 'bye'
end

def reconnect
  client = Client.new(reliable: true)
  client.subscribe
  first = client.message
  client.receipt { |asked| client.settle(:ack, first, asked) }
  puts "holding #{client.message.body}"
  again = client.connection.receive # it connects and subscribes again by itself
  again = client.connection.receive while again.command == 'RECEIPT' # of that SUBSCRIBE
  puts "again #{again.body} #{again.headers['redelivered']}"
  client.receipt { |asked| client.settle(:ack, again, asked) }
  client.connection.publish(QUEUE, 'third', { 'persistent' => 'true' })
  third = client.message
  client.receipt { |asked| client.settle(:ack, third, asked) }
  puts "received #{third.body}"
  client.connection.disconnect
  puts 'bye'
end

send(STEP)
